"""Accept what people pass as recordings, and name what cannot be one."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
from jaxtyping import Shaped

from elastic_ast_jax.audio.errors import AudioError

__all__ = ['list_inputs', 'to_array']

# An array with fewer columns is one recording with channels; a clip has more samples.
_MAX_CHANNELS = 32


def list_inputs(inputs: Any) -> Iterable[Any]:
    """Return the inputs; a single path or array is one input.

    An array `[samples]`, or `[samples, channels]` of at most 32 channels, is one recording; another
    two-dimensional array is one for each row.
    """
    shape = getattr(inputs, 'shape', None)
    is_array = shape is not None and (
        len(shape) < 2 or (len(shape) == 2 and shape[1] <= min(_MAX_CHANNELS, shape[0]))
    )
    is_single = isinstance(inputs, (str, bytes, os.PathLike, Mapping)) or is_array
    # A pair of samples and rate is one input too, which cannot be used.
    if is_single or _is_pair(inputs):
        return [inputs]
    return cast(Iterable[Any], inputs)


def to_array(source: Any, name: str, sample_rate: int) -> Shaped[np.ndarray, '...']:
    """Return an input that is no path as an array.

    Args:
        source: The input.
        name: Its name in messages.
        sample_rate: The sample rate of arrays in Hz, for messages.

    Raises:
        AudioError: It is no array; says what to pass instead.
    """
    kind = type(source).__name__
    if _is_pair(source):
        raise AudioError(
            f'{name}: is a {kind} of samples and a sample rate: pass the samples alone, resampled'
            f' to {sample_rate} Hz'
        )
    if isinstance(source, Mapping):
        raise AudioError(
            f'{name}: is a dictionary: pass its samples alone, at {sample_rate} Hz, or the path of'
            ' a recording'
        )
    if isinstance(source, (bytes, bytearray)):
        raise AudioError(f'{name}: is bytes: pass the path of a recording as text, or an array')
    if getattr(source, 'requires_grad', False):
        raise AudioError(f'{name}: is a {kind} with gradients: pass tensor.detach()')
    try:
        array = np.asarray(source)
    except Exception as error:  # objects of other libraries raise anything
        reason = str(error).partition('\n')[0]
        raise AudioError(
            f'{name}: a {kind} that makes no array ({type(error).__name__}: {reason}): pass the'
            ' path of a recording, or samples as an array'
        ) from error
    if array.dtype.kind in 'OSU':
        raise AudioError(
            f'{name}: a {kind} that is no array of numbers: pass the path of a recording, or'
            ' samples as int16, int32 or float32 in [-1, 1]'
        )
    return array


def _is_pair(value: Any) -> bool:
    """Return whether a value is `(samples, sample rate)`, in either order."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        return False
    kinds = [_kind(entry) for entry in value]
    return sorted(kinds) == ['number', 'samples']


def _kind(value: Any) -> str:
    """Return whether a value is a number or samples."""
    if isinstance(value, (int, float, np.number)):
        return 'number'
    shape = getattr(value, 'shape', None)
    if shape is not None:
        return 'samples' if len(shape) else 'number'
    return 'samples' if isinstance(value, (list, tuple)) else 'other'

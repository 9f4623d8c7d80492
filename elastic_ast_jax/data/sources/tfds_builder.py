"""Finding and preparing a data set of TensorFlow Datasets (TFDS), and the features that make up its
clips.
"""

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from elastic_ast_jax.data.sources.base import DataError

__all__ = [
    'FORMAT',
    'Features',
    'select_features',
    'complete_features',
    'open_builder',
    'stored_sample_rate',
]

# The file format of TFDS that can be read at random.
FORMAT = 'array_record'
# TFDS keeps the samples of an Audio feature as numbers of 16 bits in whatever type it is told to.
_DTYPES = ('int16', 'int32', 'int64', 'float16', 'float32', 'float64')


@dataclasses.dataclass(frozen=True)
class Features:
    """Names of the features that make up a clip.

    Attributes:
        audio: The samples: `Tensor` or `Audio`, `[samples]` or `[samples, channels]`. Integers have
            16 bits, floats full scale 1.
        label: `ClassLabel` or `Text`, or a `Sequence` of either.
        key: `Text`, or a whole number; unique in the split. Empty: what the data set says, or
        SHA-256 of the samples.
        rate: Sample rate in Hz where neither `audio` nor the data set tells it; 0 if one does.
    """

    audio: str = 'audio'
    label: str = 'label'
    key: str = ''
    sample_rate: int = 0


def open_builder(name: str, folder: str) -> Any:
    """The builder of a data set that is prepared in ArrayRecord files; prepares it if it is not
    prepared at all.

    Args:
        name: As for `tfds.builder`.
        folder: Folder of prepared data sets, or that of one of them (with `dataset_info.json`);
        empty: TFDS's own.

    Raises:
        DataError: no such data set, it cannot be prepared, or it is in files of another format.
    """
    # loads TensorFlow when it first needs it, which the next line has done quietly
    import tensorflow_datasets as tfds

    from elastic_ast_jax.data.tf import tf

    folder = os.path.expanduser(folder)
    try:
        if folder and tf.io.gfile.exists(os.path.join(folder, 'dataset_info.json')):
            return _checked(tfds.builder_from_directory(folder))
        builder = tfds.builder(name, data_dir=folder or None)
    except DataError:
        raise
    except (
        Exception
    ) as error:  # TFDS raises its own kinds, ValueError and what the data set's code raises
        raise DataError(
            f'TensorFlow Datasets has no data set {name!r} in {folder or "its folder"} and no code'
            f' that makes it ({_first_line(error)}): check data.tfds_name and data.tfds_dir'
        ) from error
    if builder.is_prepared():
        return _checked(builder)
    logging.warning(
        '%s is not prepared in %s: downloading and preparing it',
        builder.info.full_name,
        builder.data_dir,
    )
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what it says is progress, not a result
            builder.download_and_prepare(file_format=FORMAT)
    except (
        Exception
    ) as error:  # network, disk, missing packages and whatever the data set's code raises
        missing = getattr(_root(error), 'name', None) if isinstance(error, ImportError) else None
        if missing:
            raise DataError(
                f'{builder.info.full_name}: preparing it takes the package {missing}, which is not'
                f' installed: pip install {missing}, then start again'
            ) from error
        raise DataError(
            f'{builder.info.full_name} cannot be prepared in {builder.data_dir}'
            f' ({_first_line(error)}): prepare it where that is possible and give its folder with'
            ' --config.data.tfds_dir=FOLDER'
        ) from error
    return builder


def _checked(builder: Any) -> Any:
    formats = sorted(form.value for form in builder.info.available_file_formats())
    if FORMAT not in formats:
        raise DataError(
            f'{builder.data_dir}: the data set is in {" and ".join(formats)} files, which cannot be'
            ' read at '
            f'random. This writes {FORMAT} files beside them (pip install apache-beam first):\n'
            f'  python -m tensorflow_datasets.scripts.convert_format --out_file_format={FORMAT} '
            f'--dataset_version_dir={builder.data_dir}\n'
            f"Or prepare it anew with download_and_prepare(file_format='{FORMAT}') in another"
            ' folder, and '
            f'pass that with --config.data.tfds_dir'
        )
    return builder


def select_features(info: Any, names: Features) -> dict[str, Any]:
    """The features that are read by their names, from a builder's `info`.

    Raises:
        DataError: a feature is not there, or of a kind that cannot be used.
    """
    import tensorflow_datasets as tfds

    kinds = tfds.features
    there = dict(info.features.items()) if isinstance(info.features, kinds.FeaturesDict) else {}

    def feature(option: str, name: str, usable: Callable[[Any], bool], needed: str) -> Any:
        if name not in there:
            what = ', '.join(f'{other} ({_kind(one)})' for other, one in sorted(there.items()))
            raise DataError(
                f'{info.full_name} has no feature {name!r}: set {option} to one of its features:'
                f' {what}'
            )
        if not usable(there[name]):
            raise DataError(
                f'{info.full_name}: {option}={name!r} is {_kind(there[name])}, but must be {needed}'
            )
        return there[name]

    def is_audio(one: Any) -> bool:
        # Audio that is decoded when it is read is stored as a file, which NumPy alone cannot
        # decode.
        return (
            isinstance(one, kinds.Tensor)
            and len(one.shape) in (1, 2)
            and np.dtype(one.np_dtype).name in _DTYPES
            and not getattr(one, '_lazy_decode', False)
        )

    def is_label(one: Any) -> bool:
        one = getattr(one, 'feature', one) if isinstance(one, kinds.Sequence) else one
        return isinstance(one, kinds.Text) or (
            isinstance(one, kinds.ClassLabel) and bool(one.names)
        )

    def is_key(one: Any) -> bool:
        return isinstance(one, kinds.Text) or (
            isinstance(one, kinds.Tensor)
            and not one.shape
            and (
                np.issubdtype(one.np_dtype, np.integer)
                or one.np_dtype is np.object_
                or one.np_dtype is np.str_
            )
        )

    found = {
        names.audio: feature(
            'data.tfds_audio',
            names.audio,
            is_audio,
            'samples that TFDS stores decoded, of shape (None,) or (None, channels) and type '
            f'{", ".join(_DTYPES)}',
        ),
        names.label: feature(
            'data.tfds_label',
            names.label,
            is_label,
            'a ClassLabel with names, a Text, or a Sequence of either',
        ),
    }
    if names.key:
        found[names.key] = feature('data.tfds_key', names.key, is_key, 'a Text or a whole number')
    return found


def complete_features(info: Any, names: Features) -> Features:
    """The features to read:

    what `names` leaves open is as the data set says, if it was prepared by `elastic-ast prepare`.
    """
    told = _told(info, 'key', str)
    return names if names.key or told not in info.features else dataclasses.replace(names, key=told)


def stored_sample_rate(info: Any, names: Features) -> int:
    """Sample rate of the recordings in Hz, as the audio feature, the data set or `names` tells it.

    Raises:
        DataError: none does, or they disagree.
    """
    told = getattr(info.features[names.audio], 'sample_rate', None) or 0
    who = f'the feature {names.audio!r}'
    if not told and (meant := _told(info, 'sample_rate', int)):
        told, who = meant, 'the data set'
    if told and names.sample_rate and told != names.sample_rate:
        raise DataError(
            f'{info.full_name}: data.tfds_rate={names.sample_rate}, but {who} says {told} Hz:'
            ' leave out'
            ' data.tfds_rate'
        )
    if not (told or names.sample_rate):
        raise DataError(
            f'{info.full_name}: the feature {names.audio!r} does not tell the sample rate: give it'
            ' in Hz with --config.data.tfds_rate'
        )
    return int(told or names.sample_rate)


def _told(info: Any, name: str, kind: type) -> Any:
    """What the metadata of a data set say, if they say it."""
    metadata = info.metadata
    there = (
        isinstance(metadata, Mapping) and name in metadata.keys()
    )  # only `keys` and `[]` read what TFDS reads late
    value = metadata[name] if there else None
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _kind(feature: Any) -> str:
    """A feature as TFDS writes it, on one line."""
    return ' '.join(repr(feature).split())


def _root(error: BaseException) -> BaseException:
    """The error that led to all the others; TFDS wraps them several times."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__

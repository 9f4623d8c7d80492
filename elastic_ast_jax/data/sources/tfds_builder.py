"""Open or prepare a data set of TensorFlow Datasets (TFDS), and select its features."""

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from elastic_ast_jax.data.sources import tfds_classes
from elastic_ast_jax.data.sources.base import DataError

__all__ = [
    'FORMAT',
    'Features',
    'complete_features',
    'open_builder',
    'select_features',
    'stored_sample_rate',
]

# The file format of TFDS that can be read at random.
FORMAT = 'array_record'
# TFDS stores the samples of an Audio feature as numbers of 16 bits in any of these types.
_DTYPES = ('int16', 'int32', 'int64', 'float16', 'float32', 'float64')


@dataclasses.dataclass(frozen=True)
class Features:
    """Name the features that make up a clip.

    Attributes:
        audio: The samples: `Tensor` or `Audio`, `[samples]` or `[samples, channels]`. Integers have
            16 bits, floats full scale 1.
        label: `ClassLabel` or `Text`, or a `Sequence` of either.
        key: `Text`, or a whole number; unique in the split. Empty: the key that the data set
            stores, or SHA-256 of the samples.
        sample_rate: Sample rate in Hz if neither `audio` nor the data set stores it; otherwise 0.
    """

    audio: str = 'audio'
    label: str = 'label'
    key: str = ''
    sample_rate: int = 0


def open_builder(name: str, folder: str) -> Any:
    """Return the builder of a data set in ArrayRecord files; prepare the data set if necessary.

    Args:
        name: Name of the data set for `tfds.builder`.
        folder: Folder of prepared data sets, or of one of them (with `dataset_info.json`). Empty:
            the default of TFDS.

    Raises:
        DataError: There is no such data set, it cannot be prepared, it is in files of another
            format, or it names code that reading it would run.
    """
    # TFDS loads TensorFlow when it first needs it; the next import has loaded it quietly.
    import tensorflow_datasets as tfds

    from elastic_ast_jax.data.tf import tf

    folder = os.path.expanduser(folder)
    tfds_classes.check_name(name)
    tfds_classes.check_prepared(name, folder)
    try:
        if folder and tf.io.gfile.exists(os.path.join(folder, 'dataset_info.json')):
            return _check_format(tfds.builder_from_directory(folder))
        builder = tfds.builder(name, data_dir=folder or None)
    except DataError:
        raise
    # TFDS raises its own errors, ValueError and the errors of the code of the data set.
    except Exception as error:
        raise DataError(
            f'TensorFlow Datasets has no data set {name!r} in {folder or "its folder"} and no code'
            f' that creates it ({_first_line(error)}): check data.tfds_name and data.tfds_dir'
        ) from error
    if builder.is_prepared():
        return _check_format(builder)
    logging.warning(
        '%s is not prepared in %s: downloading and preparing it',
        builder.info.full_name,
        builder.data_dir,
    )
    try:
        with contextlib.redirect_stdout(sys.stderr):  # progress, not a result
            builder.download_and_prepare(file_format=FORMAT)
    # Network, disk, missing packages and the errors of the code of the data set.
    except Exception as error:
        missing = getattr(_root(error), 'name', None) if isinstance(error, ImportError) else None
        if missing:
            raise DataError(
                f'{builder.info.full_name}: preparing it needs the package {missing}, which is not'
                f' installed: pip install {missing}, then start again'
            ) from error
        raise DataError(
            f'{builder.info.full_name} cannot be prepared in {builder.data_dir}'
            f' ({_first_line(error)}): prepare it where that is possible and give its folder with'
            ' --config.data.tfds_dir=FOLDER'
        ) from error
    return builder


def _check_format(builder: Any) -> Any:
    """Return the builder, or refuse files that cannot be read at random."""
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
    """Return the features to read by their names.

    Args:
        info: Metadata of a builder.
        names: Names of the features.

    Raises:
        DataError: A feature is missing, or of a kind that cannot be used.
    """
    import tensorflow_datasets as tfds

    kinds = tfds.features
    available = dict(info.features.items()) if isinstance(info.features, kinds.FeaturesDict) else {}

    def feature(option: str, name: str, usable: Callable[[Any], bool], needed: str) -> Any:
        if name not in available:
            listed = [f'{key} ({_kind(value)})' for key, value in sorted(available.items())]
            raise DataError(
                f'{info.full_name} has no feature {name!r}: set {option} to one of its features:'
                f' {", ".join(listed)}'
            )
        if not usable(available[name]):
            raise DataError(
                f'{info.full_name}: {option}={name!r} is {_kind(available[name])}, but must be'
                f' {needed}'
            )
        return available[name]

    selected = {
        names.audio: feature(
            'data.tfds_audio',
            names.audio,
            _is_audio,
            'samples that TFDS stores decoded, of shape (None,) or (None, channels) and type '
            f'{", ".join(_DTYPES)}',
        ),
        names.label: feature(
            'data.tfds_label',
            names.label,
            _is_label,
            'a ClassLabel with names, a Text, or a Sequence of either',
        ),
    }
    if names.key:
        selected[names.key] = feature(
            'data.tfds_key', names.key, _is_key, 'a Text or a whole number'
        )
    return selected


def complete_features(info: Any, names: Features) -> Features:
    """Return the features to read: `names`, by default with the key that `prepare` stored."""
    key = _metadata(info, 'key', str)
    return names if names.key or key not in info.features else dataclasses.replace(names, key=key)


def stored_sample_rate(info: Any, names: Features) -> int:
    """Return the sample rate in Hz that the audio feature, the data set or `names` has.

    Raises:
        DataError: None of them has it, or they disagree.
    """
    stored = getattr(info.features[names.audio], 'sample_rate', None) or 0
    place = f'the feature {names.audio!r}'
    if not stored and (sample_rate := _metadata(info, 'sample_rate', int)):
        stored, place = sample_rate, 'the data set'
    if stored and names.sample_rate and stored != names.sample_rate:
        raise DataError(
            f'{info.full_name}: data.tfds_rate={names.sample_rate}, but {place} says {stored} Hz:'
            ' remove data.tfds_rate'
        )
    if not (stored or names.sample_rate):
        raise DataError(
            f'{info.full_name}: the feature {names.audio!r} has no sample rate: give it in Hz with'
            ' --config.data.tfds_rate'
        )
    return int(stored or names.sample_rate)


def _is_audio(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    # Audio that is decoded when it is read is stored as a file, which NumPy alone cannot decode.
    if not isinstance(feature, tfds.features.Tensor) or getattr(feature, '_lazy_decode', False):
        return False
    shape, dtype = _shape_and_dtype(feature)
    return len(shape) in (1, 2) and np.dtype(dtype).name in _DTYPES


def _is_label(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Sequence):
        feature = getattr(feature, 'feature', feature)
    return isinstance(feature, tfds.features.Text) or (
        isinstance(feature, tfds.features.ClassLabel) and bool(feature.names)
    )


def _is_key(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Text):
        return True
    if not isinstance(feature, tfds.features.Tensor):
        return False
    shape, dtype = _shape_and_dtype(feature)
    return not shape and (
        np.issubdtype(dtype, np.integer) or dtype is np.object_ or dtype is np.str_
    )


def _shape_and_dtype(feature: Any) -> tuple[tuple[int | None, ...], Any]:
    return feature.shape, feature.np_dtype


def _metadata(info: Any, name: str, kind: type) -> Any:
    """Return a value of the metadata of a data set, or None without a value of this type."""
    metadata = info.metadata
    # Only `keys` and `[]` read what TFDS reads late.
    present = isinstance(metadata, Mapping) and name in metadata.keys()  # noqa: SIM118
    value = metadata[name] if present else None
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _kind(feature: Any) -> str:
    """Return a feature as TFDS writes it, on one line."""
    return ' '.join(repr(feature).split())


def _root(error: BaseException) -> BaseException:
    """Return the first error of a chain; TFDS wraps errors several times."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__

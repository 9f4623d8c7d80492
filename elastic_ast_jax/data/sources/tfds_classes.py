"""Check the classes that a prepared data set names, before TensorFlow Datasets (TFDS) reads it.

TFDS imports the module of each feature that `features.json` or `dataset_info.json` names, and
importing a module runs its code. So only classes of TFDS itself are accepted, by their names.
"""

import itertools
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elastic_ast_jax.data.sources.base import DataError
from elastic_ast_jax.utils import bounded

__all__ = ['check_name', 'check_prepared']

_FEATURES, _INFO = 'features.json', 'dataset_info.json'
_PACKAGE = 'tensorflow_datasets.core.features'
# The features that TFDS 4.9 defines, by their modules; `feature.Tensor` is an earlier name.
_CLASSES = frozenset(
    f'{_PACKAGE}.{name}'
    for name in (
        'audio_feature.Audio',
        'bounding_boxes.BBoxFeature',
        'class_label_feature.ClassLabel',
        'dataset_feature.Dataset',
        'feature.Tensor',
        'features_dict.FeaturesDict',
        'image_feature.Image',
        'labeled_image.LabeledImage',
        'scalar.Scalar',
        'sequence_feature.Sequence',
        'tensor_feature.Tensor',
        'text_feature.Text',
        'translation_feature.Translation',
        'translation_feature.TranslationVariableLanguages',
        'video_feature.Video',
    )
)
# Keys of the name of a class, in TFDS's present format and in its earlier one.
_NAME_KEYS = ('pythonClassName', 'python_class_name', 'type')
# `dataset_info.json` lists the length of every file.
_LIMIT = 64 * bounded.MEBIBYTE


def check_name(name: str) -> None:
    """Refuse a name of a data set whose code TFDS would fetch and run.

    Args:
        name: Name of the data set for `tfds.builder`.

    Raises:
        DataError: The name has a namespace, or its config is a folder elsewhere.
    """
    head = name.partition('/')[0]
    namespace, colon, rest = head.partition(':')
    if colon and not rest[:1].isdigit() and not rest.startswith('*'):
        raise DataError(
            f'data.tfds_name={name!r}: TensorFlow Datasets would fetch the code of the namespace'
            f' {namespace!r} and run it: prepare the data set with its own program, and give its'
            ' folder with data.tfds_dir'
        )
    if any(set(part.partition(':')[0]) == {'.'} for part in name.split('/')):
        raise DataError(f'data.tfds_name={name!r}: must be NAME, NAME/CONFIG or NAME:VERSION')


def check_prepared(name: str, folder: str) -> None:
    """Check every version of a prepared data set that TFDS may read.

    Args:
        name: Name of the data set for `tfds.builder`.
        folder: Folder of prepared data sets, or of one of them. Empty: the default of TFDS.

    Raises:
        DataError: A class is not one of TFDS's features, or a file of metadata cannot be used.
    """
    for file in _metadata_files(name, folder):
        _check_file(file)


def _metadata_files(name: str, folder: str) -> Iterator[Any]:
    """Yield the existing files of metadata, as local paths or as paths that TensorFlow reads."""
    from etils import epath
    from tensorflow_datasets.core import naming
    from tensorflow_datasets.core.utils import file_utils

    if folder and epath.Path(folder, _INFO).exists():
        roots, patterns = [folder], ('',)
    else:
        try:
            data_set = naming.parse_builder_name_kwargs(name)[0].name
        except ValueError:
            return  # TFDS refuses it, too
        roots = [os.path.join(root, data_set) for root in file_utils.list_data_dirs(folder or None)]
        patterns = ('', '*/', '*/*/')
    for root, pattern, file in itertools.product(roots, patterns, (_FEATURES, _INFO)):
        yield from epath.Path(root).glob(pattern + file)


def _check_file(file: Any) -> None:
    """Check a file of metadata, and the texts beside it, which TFDS reads whole."""
    try:
        if '://' in os.fspath(file):
            content = file.read_bytes()
        else:
            content = bounded.read_bytes(Path(file), _LIMIT)
            _check_kinds(Path(file).parent)
        values = json.loads(content)
        features = values if file.name == _FEATURES else values.get('features', {})
        foreign = sorted(name for name in _class_names(features) if name not in _CLASSES)
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        reason = getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}'
        raise DataError(f'{file}: cannot be read ({reason}): prepare the data set again') from error
    if foreign:
        raise DataError(
            f'{file}: names the class {foreign[0][:200]!r}, which is no feature of TensorFlow'
            ' Datasets. Reading the data set would import its module and run code; nothing was'
            " imported. Prepare the data set with TensorFlow Datasets' own features"
        )


def _check_kinds(folder: Path) -> None:
    """Refuse texts of metadata that are pipes, devices or folders; files of clips are not read."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(('.txt', '.json')) and not stat.S_ISREG(entry.stat().st_mode):
                bounded.check_regular(entry.path)


def _class_names(features: Any) -> Iterator[str]:
    """Yield the names of all classes in a description of features, also in texts of JSON in it."""
    pending = [features]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        elif isinstance(node, str) and node.lstrip()[:1] in ('{', '['):
            try:
                pending.append(json.loads(node))
            except ValueError:  # TFDS cannot read it either
                continue
        elif isinstance(node, dict):
            yield from (node[key] for key in _NAME_KEYS if isinstance(node.get(key), str))
            pending += node.values()

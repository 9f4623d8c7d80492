"""Prepare the recordings of a manifest like a data set with its own builder."""

import os
import re
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from elastic_ast_jax.data.prepare.builder import ClipBuilder
from elastic_ast_jax.data.prepare.lists import Layout
from elastic_ast_jax.data.sources import headers, manifest
from elastic_ast_jax.data.sources.base import BadAudio, DataError, FileClip
from elastic_ast_jax.utils.text import pluralize

__all__ = ['ManifestBuilder']

_NAME = re.compile(r'[a-z][a-z0-9_]*')
_SPLIT = re.compile(r'\w+', re.ASCII)


class ManifestBuilder(ClipBuilder, skip_registration=True):
    """Prepare the recordings of a manifest; see `data.sources.manifest` for its form.

    Clips may have any number of labels.

    Args:
        path: The manifest. Without splits in it, all clips are of split `train`.
        sample_rate: Sample rate in Hz.
        name: Name of the data set. Empty: the name of the file.
        label_separator: Stands between the labels in a cell of a CSV.
        data_dir: See `ClipBuilder`.
        only: See `ClipBuilder`.
        on_bad_audio: See `ClipBuilder`.
        options: See `ClipBuilder`.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'The recordings must be where the manifest says: paths are absolute, or relative to it.'
    )
    name = 'manifest'
    MULTI_LABEL = True

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        sample_rate: int,
        name: str = '',
        label_separator: str = ';',
        data_dir: str | os.PathLike,
        only: tuple[str, ...] = (),
        on_bad_audio: BadAudio = 'skip',
        **options: Any,
    ):
        self._path, self._label_separator = Path(path), label_separator
        stem = re.sub(r'[^a-z0-9]+', '_', self._path.stem.lower()).strip('_')
        # The base class declares a name per class.
        self.name = name or stem  # pyright: ignore[reportAttributeAccessIssue]  set per data set
        if not _NAME.fullmatch(self.name):
            raise DataError(
                f'{self.name!r} cannot be the name of a data set, which is lower-case letters,'
                ' digits and _: give another with --name'
            )
        if self.name in tfds.list_builders(with_community_datasets=False):
            raise DataError(
                f'TensorFlow Datasets has a data set {self.name!r} of its own: give another name'
                ' with --name'
            )
        self.SAMPLE_RATE = sample_rate
        super().__init__(data_dir=data_dir, only=only, on_bad_audio=on_bad_audio, **options)

    def _source(self, dl_manager: Any) -> Path:
        return self._path.parent

    def layout(self, folder: Path) -> Layout:
        """Return classes and clips of the manifest."""
        clips, names = manifest.entries(self._path, self._label_separator)
        splits: dict[str, dict[str, FileClip]] = {}
        problems = []
        for clip, split in zip(clips, names, strict=True):
            split = split or 'train'
            if not _SPLIT.fullmatch(split) or split == 'all':
                problems.append(
                    f'{clip.location}: split {split!r} must be letters, digits and _, and not all'
                )
                continue
            earlier = splits.setdefault(split, {}).setdefault(clip.key, clip)
            if earlier is not clip:
                problems.append(
                    f'{clip.location}: is listed before, in {earlier.origin}: keep one of them,'
                    ' with the labels of both'
                )
        if problems:
            raise DataError(
                f'{self._path}: {pluralize(len(problems), "clip")} cannot be'
                f' used:\n{headers.format_problems(problems)}'
            )
        return Layout(tuple(sorted({label for clip in clips for label in clip.labels})), splits)

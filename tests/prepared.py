"""Writes data sets as TensorFlow Datasets does, for tests to read."""

import os
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds


def prepare(
    folder: str | os.PathLike,
    name: str,
    features: dict[str, Any],
    splits: dict[str, Sequence[dict[str, Any]]],
    version: str = '1.0.0',
    file_format: str = 'array_record',
) -> str:
    """Writes `folder/name/version`, shuffled as TFDS does, and gives back `folder`."""

    # Not registered, so that it is found by its files alone and may have the name of a known data
    # set.
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            return {split: self._generate_examples(examples) for split, examples in splits.items()}

        def _generate_examples(self, examples):
            yield from enumerate(examples)

    Builder.name = name
    Builder(data_dir=os.fspath(folder)).download_and_prepare(file_format=file_format)
    return os.fspath(folder)

"""Describe what this process is about to do, in sections that `agreement` compares."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax

from elastic_ast_jax.config.schema import STARTER, Config
from elastic_ast_jax.data.sources.base import FileSource, Source
from elastic_ast_jax.data.sources.tfds import TfdsSource
from elastic_ast_jax.distributed.agreement import Section
from elastic_ast_jax.utils.hashing import text_hash

__all__ = ['data_sections', 'settings_sections', 'weights_sections']

# Keys that may differ between hosts. The first ones locate files, whose content is compared.
_OWN_KEYS = {
    'data.root',
    'data.train',
    'data.eval',
    'data.label_csv',
    'data.tfds_dir',
    'init.from',
    'data.num_workers',
}
# Packages that decide the numbers of a run, or how its processes talk.
_PACKAGES = (
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'numpy',
    'scipy',
    'scikit-learn',
    'soundfile',
    'soxr',
    'librosa',
    'tensorflow',
    'tensorflow-cpu',
    'tensorflow-datasets',
)
_JAX_OPTIONS = ('jax_enable_x64', 'jax_default_matmul_precision', 'jax_default_prng_impl')
_ROOT = Path(__file__).parents[1]


def settings_sections(config: Config, options: Iterable[str] = ()) -> Iterator[Section]:
    """Yield the config, the packages and the code; this opens none of the data.

    Args:
        config: The configuration.
        options: Lines that describe the options of the command, besides the config.
    """
    keys = (
        f'{key}={value!r}' for key, value in sorted(config.flat().items()) if key not in _OWN_KEYS
    )
    yield Section.of('config', keys)
    yield Section.of('options', options)
    yield Section.of('packages', _package_lines())
    yield Section.of('files of elastic-ast-jax', _tree_lines(_ROOT, '.py'))


def data_sections(split: str, source: Source, plan: Iterable[str]) -> Iterator[Section]:
    """Yield the clips of a split, the files that hold them, and its plan.

    Files are described by their names and their sizes, as their folders list them.

    Args:
        split: 'training', 'validation' or 'evaluation'.
        source: The split.
        plan: Lines that describe its plan, such as its fingerprint.
    """

    def clip_lines() -> Sequence[str]:
        return [
            f'{key}: {samples} samples, labels {", ".join(labels)}'
            for key, samples, labels in zip(
                source.keys, source.samples.tolist(), source.labels, strict=True
            )
        ]

    names, sizes = _files(source)

    def file_lines() -> Sequence[str]:
        return [f'{name}: {size} bytes' for name, size in zip(names, sizes, strict=True)]

    yield Section(f'{split} clips', clip_lines, source.fingerprint)
    yield Section(f'files of {split}', file_lines, text_hash(repr((names, sizes))))
    yield Section.of(f'classes of {split}', source.classes or ())
    yield Section.of(f'plan of {split}', plan)


def weights_sections(path: str) -> Iterator[Section]:
    """Yield the files of pretrained weights, or the path of what is not on this host."""
    place = Path(path)
    if path == STARTER:  # the packages are compared elsewhere
        lines = [path]
    elif (place / 'checkpoints').is_dir():  # a run, which may be training now
        lines = sorted(os.listdir(place / 'checkpoints'))
    elif place.is_dir():
        lines = _tree_lines(place)
    elif place.is_file():
        lines = [f'{place.name}: {place.stat().st_size} bytes']
    else:
        lines = [path]
    yield Section.of('weights of init.from', lines)


def _package_lines() -> Iterator[str]:
    yield f'python {platform.python_version()}'
    for name in _PACKAGES:
        try:
            yield f'{name} {importlib.metadata.version(name)}'
        except importlib.metadata.PackageNotFoundError:
            yield f'{name} is not installed'
    for name in _JAX_OPTIONS:
        yield f'{name}={getattr(jax.config, name)!r}'


def _tree_lines(root: Path, suffix: str = '') -> list[str]:
    """Return names and sizes of the files below a folder, sorted."""
    return sorted(
        f'{os.path.relpath(os.path.join(folder, name), root)}:'
        f' {os.stat(os.path.join(folder, name)).st_size} bytes'
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(suffix)
    )


def _files(source: Source) -> tuple[list[str], list[int]]:
    """Return names and sizes of the files that a source reads, in its order; -1 without a file."""
    if isinstance(source, FileSource):
        names = {clip.path: clip.name for clip in source.clips}
    elif isinstance(source, TfdsSource):
        names = {path: os.path.basename(path) for path in source.files}
    else:
        names = {}
    folders: dict[str, dict[str, int]] = {}
    for number, path in enumerate(names):
        folder, name = os.path.split(path)
        folders.setdefault(folder, {})[name] = number
    sizes = [-1] * len(names)
    for folder, numbers in folders.items():
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                number = numbers.get(entry.name)
                if number is not None:
                    with contextlib.suppress(OSError):  # a link to nothing
                        sizes[number] = entry.stat().st_size
    return list(names.values()), sizes

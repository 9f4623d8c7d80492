"""Survey the recordings of a training split: lengths, sample rates, classes, sounds, copies.

Headers of all clips are read, and a sample of the clips is decoded. The evaluation split counts
only as files and by its classes, for warnings: no choice depends on its sounds or its labels.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from elastic_ast_jax.audio import reading
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.configure import levels, spectrum
from elastic_ast_jax.configure.copies import find_copies
from elastic_ast_jax.configure.levels import Level
from elastic_ast_jax.configure.spectrum import Band
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.sources.base import DataError, FileSource, evenly_spaced
from elastic_ast_jax.data.sources.clip_labels import label_names
from elastic_ast_jax.utils.progress import Progress

__all__ = ['Survey', 'open_sources', 'take']

# Clips whose sounds are measured, and the seconds of each.
_DECODED_CLIPS, _DECODED_SECONDS = 200, 10.0
# Quantile over clips: a few recordings with noise at high frequencies decide nothing.
_CLIPS_WITHIN = 0.9


@dataclasses.dataclass(frozen=True)
class Survey:
    """Describe the clips of a data set.

    Attributes:
        seconds: Length of each training clip.
        class_clips: Number of training clips of each class.
        labels: Number of labels of the training clip with the fewest, and of that with the most.
        label_sets: Number of different sets of labels of the training clips.
        eval_clips: Number of evaluation clips.
        native_rates: Lowest sample rate of the training clips, and that which nine of ten of them
            do not exceed.
        edge: Frequency in Hz below which nine of ten clips have 99.5 % of their energy, also where
            that of steady sounds does not count. 0: no clip has sound.
        silent: Keys of decoded training clips without sound in their middle ten seconds.
        duplicates: Pairs of a training and an evaluation recording with the same content.
        band: Range of the sounds that stand out from noise; see `spectrum.EnergyRange`.
        eval_class_clips: Number of evaluation clips of each class.
        rate_clips: Number of training clips of each native sample rate.
        clip_levels: Loudness of the decoded training clips that are not silent, by their keys.
        contradictions: Pairs of training recordings with the same content and different labels.
    """

    seconds: Float64[np.ndarray, 'N']
    class_clips: Mapping[str, int]
    labels: tuple[int, int]
    label_sets: int
    eval_clips: int
    native_rates: tuple[int, int]
    edge: float
    silent: tuple[str, ...]
    duplicates: tuple[tuple[str, str], ...]
    band: Band | None = None
    eval_class_clips: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rate_clips: Mapping[int, int] = dataclasses.field(default_factory=dict)
    clip_levels: Mapping[str, Level] = dataclasses.field(default_factory=dict)
    contradictions: tuple[tuple[str, str], ...] = ()

    @property
    def clips(self) -> int:
        """Return the number of training clips."""
        return len(self.seconds)


def open_sources(config: Config) -> tuple[FileSource, FileSource]:
    """Open the training and the evaluation split of a config.

    Raises:
        DataError: The data cannot be used; says why.
    """
    source = _open(config, 'train')
    try:
        return source, _open(config, 'eval')
    except DataError as error:
        if config.data.train != config.data.eval:
            raise
        raise DataError(f'{error}; or give recordings for evaluation with --eval=DATA') from error


def take(source: FileSource, evaluation: FileSource) -> Survey:
    """Survey the training split, and count the evaluation split.

    Raises:
        AudioError: None of the clips can be decoded.
    """
    names = label_names(source)
    counts, eval_counts = (
        collections.Counter(label for labels in split.labels for label in set(labels))
        for split in (source, evaluation)
    )
    numbers = [len(labels) for labels in source.labels]
    rates = np.sort([rate for _, _, rate in source.native_parts()])
    sounds = _measure_sounds(source)
    shared, contradictions = find_copies(source, evaluation)
    return Survey(
        seconds=source.samples / source.sample_rate,
        class_clips={name: counts[name] for name in names},
        labels=(min(numbers), max(numbers)),
        label_sets=len(set(map(frozenset, source.labels))),
        eval_clips=len(evaluation),
        native_rates=(int(rates[0]), int(rates[int(_CLIPS_WITHIN * (len(rates) - 1))])),
        edge=sounds.edge,
        silent=sounds.silent,
        duplicates=shared,
        band=sounds.band,
        eval_class_clips={name: eval_counts[name] for name in names},
        rate_clips=dict(sorted(collections.Counter(rates.tolist()).items())),
        clip_levels=sounds.clip_levels,
        contradictions=contradictions,
    )


class _Sounds(NamedTuple):
    """Hold what is measured on decoded clips; see `Survey`."""

    edge: float
    band: Band | None
    silent: tuple[str, ...]
    clip_levels: dict[str, Level]


def _open(config: Config, split: splits.Split) -> FileSource:
    source = splits.open_source(config, split)
    if not isinstance(source, FileSource):
        raise DataError(f'data.source={config.data.source!r} has no recordings in files')
    return source


def _measure_sounds(source: FileSource) -> _Sounds:
    """Measure a sample of the clips.

    Raises:
        AudioError: None of the clips can be decoded.
    """
    edges, bands, labels, silent, clip_levels = [], [], [], [], {}
    bands_hertz = np.empty(0)
    for clip, rate, waveform in _decode_sample(source):
        if levels.is_silent(waveform):
            silent.append(source.keys[clip])
            continue
        if not edges:  # no other clip that has sound has a higher rate
            bands_hertz = spectrum.band_edges(rate)
        edges.append(spectrum.band_edge(waveform, rate))
        bands.append(spectrum.clip_bands(waveform, rate, bands_hertz))
        labels.append(source.labels[clip])
        clip_levels[source.keys[clip]] = levels.measure_level(waveform)
    if not edges:
        return _Sounds(0.0, None, tuple(silent), clip_levels)
    energy = spectrum.summarize(bands, labels, bands_hertz)
    edge = max(float(np.quantile(edges, _CLIPS_WITHIN)), energy.edge)
    return _Sounds(edge, energy.band, tuple(silent), clip_levels)


def _decode_sample(
    source: FileSource,
) -> Iterator[tuple[int, int, Float32[np.ndarray, 'samples']]]:
    """Yield number, sample rate, and waveform of a sample of the clips.

    Clips of the highest sample rate come first. Those that cannot be decoded are left out.

    Raises:
        AudioError: None of the clips can be decoded.
    """
    progress, decoded = Progress(), 0
    failure: AudioError | None = None
    parts = source.native_parts()
    selected = evenly_spaced(source, _DECODED_CLIPS).tolist()
    for number, clip in enumerate(sorted(selected, key=lambda clip: -parts[clip][2]), 1):
        first, last, rate = parts[clip]
        # The middle of a long recording: there may be silence before the sound.
        surplus = max(0, last - first - int(_DECODED_SECONDS * rate)) // 2
        try:
            waveform = reading.read(source.clips[clip].path, rate, first + surplus, last - surplus)
        except AudioError as error:
            failure = error
            continue
        decoded += 1
        yield clip, rate, waveform
        progress.show(f'{number} of {len(selected)} clips')
    progress.clear()
    if failure is not None and not decoded:
        raise failure

"""Survey the recordings of a training split: lengths, sample rates, classes, energy, duplicates.

Headers of all clips are read, and a sample of the clips is decoded. The evaluation split counts
only as files: no choice depends on its sounds or its labels.
"""

import collections
import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Shaped

from elastic_ast_jax.audio import reading
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.sources.base import DataError, FileSource, evenly_spaced
from elastic_ast_jax.data.sources.clip_labels import label_names
from elastic_ast_jax.utils.progress import Progress

__all__ = ['Survey', 'band_edge', 'take']

# Clips whose energy is measured, and the seconds of each.
_DECODED_CLIPS, _DECODED_SECONDS = 200, 10.0
# Share of a clip's energy below its band edge, after the pre-emphasis of the log-mel.
_ENERGY, _PREEMPHASIS = 0.995, 0.97
_FFT = 1024
# Quantile over clips: a few recordings with noise at high frequencies decide nothing.
_CLIPS_WITHIN = 0.9
# Peak below which a clip is silent: half a step of 16 bits.
_SILENT = 2.0**-16


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
        edge: Frequency in Hz below which nine of ten clips have 99.5 % of their energy.
        silent: Keys of decoded training clips without sound in their middle ten seconds.
        duplicates: Pairs of a training and an evaluation recording with the same content.
    """

    seconds: Float64[np.ndarray, 'N']
    class_clips: dict[str, int]
    labels: tuple[int, int]
    label_sets: int
    eval_clips: int
    native_rates: tuple[int, int]
    edge: float
    silent: tuple[str, ...]
    duplicates: tuple[tuple[str, str], ...]

    @property
    def clips(self) -> int:
        """Return the number of training clips."""
        return len(self.seconds)


def take(config: Config) -> Survey:
    """Survey the training split of a config, and count the evaluation split.

    Raises:
        DataError: The data cannot be used; says why.
        AudioError: None of the clips can be decoded.
    """
    source = _open(config, 'train')
    evaluation = _open(config, 'eval')
    names = label_names(source)
    counts = collections.Counter(label for labels in source.labels for label in labels)
    numbers = [len(labels) for labels in source.labels]
    rates = np.sort([rate for _, _, rate in source.native_parts()])
    edge, silent = _measure_energy(source)
    return Survey(
        seconds=source.samples / source.sample_rate,
        class_clips={name: counts[name] for name in names},
        labels=(min(numbers), max(numbers)),
        label_sets=len(set(map(frozenset, source.labels))),
        eval_clips=len(evaluation),
        native_rates=(int(rates[0]), int(rates[int(_CLIPS_WITHIN * (len(rates) - 1))])),
        edge=edge,
        silent=silent,
        duplicates=_find_duplicates(source, evaluation),
    )


def band_edge(waveform: Shaped[np.ndarray, 'samples'], sample_rate: int) -> float:
    """Return the frequency in Hz below which 99.5 % of the energy of a sound lies.

    The energy is that after pre-emphasis, which the log-mel has too. Silence has the edge 0.
    """
    samples = np.asarray(waveform, np.float64)
    samples = np.append(samples[:1], samples[1:] - _PREEMPHASIS * samples[:-1])
    samples = np.pad(samples, (0, -len(samples) % _FFT))
    frames = samples.reshape(-1, _FFT) * np.hanning(_FFT)
    power = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).sum(axis=0)
    if not power.sum():
        return 0.0
    below = np.cumsum(power) / power.sum()
    return float(np.searchsorted(below, _ENERGY) * sample_rate / _FFT)


def _open(config: Config, split: splits.Split) -> FileSource:
    source = splits.open_source(config, split)
    if not isinstance(source, FileSource):
        raise DataError(f'data.source={config.data.source!r} has no recordings in files')
    return source


def _measure_energy(source: FileSource) -> tuple[float, tuple[str, ...]]:
    """Return the band edge of the clips, and the keys of silent ones, of a sample of them.

    Clips that cannot be decoded do not count, unless none can be.
    """
    progress, edges, silent = Progress(), [], []
    failure: AudioError | None = None
    selected = evenly_spaced(source, _DECODED_CLIPS).tolist()
    parts = source.native_parts()
    for number, clip in enumerate(selected, 1):
        first, last, rate = parts[clip]
        # The middle of a long recording: there may be silence before the sound.
        surplus = max(0, last - first - int(_DECODED_SECONDS * rate)) // 2
        first, last = first + surplus, last - surplus
        try:
            waveform = reading.read(source.clips[clip].path, rate, first, last)
        except AudioError as error:
            failure = error
            continue
        if np.abs(waveform).max() < _SILENT:
            silent.append(source.keys[clip])
        else:
            edges.append(band_edge(waveform, rate))
        progress.show(f'{number} of {len(selected)} clips')
    progress.clear()
    if not edges and failure is not None and not silent:
        raise failure
    return (float(np.quantile(edges, _CLIPS_WITHIN)) if edges else 0.0), tuple(silent)


def _find_duplicates(train: FileSource, evaluation: FileSource) -> tuple[tuple[str, str], ...]:
    """Return pairs of whole recordings with the same bytes, of both splits."""
    train_files, eval_files = _whole_files(train), _whole_files(evaluation)
    # Only files of the same size can be the same.
    sizes = set(map(_size, train_files)) & set(map(_size, eval_files))
    names = {_digest(path): name for path, name in train_files.items() if _size(path) in sizes}
    pairs = []
    for path, name in eval_files.items():
        if _size(path) in sizes and (digest := _digest(path)) in names:
            pairs.append((names[digest], name))
    return tuple(pairs)


def _whole_files(source: FileSource) -> dict[str, str]:
    return {clip.path: clip.key for clip in source.clips if clip.start is clip.end is None}


def _size(path: str) -> int:
    return Path(path).stat().st_size


def _digest(path: str) -> bytes:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').digest()

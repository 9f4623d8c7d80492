"""Compute log-mel features in NumPy, for prediction and as the reference of the training graph.

Kind `'kaldi'` is Kaldi's `compute-fbank-feats` with `htk_compat`, `use_energy=false`, a Hanning
window and no dither, as `torchaudio.compliance.kaldi.fbank` computes it for AST and ElasticAST.
Kind `'librosa'` is the frontend of ElasticAST on EPIC-SOUNDS: magnitudes (not powers) of librosa's
centered STFT, HTK mel filters without normalization, `log(x + 1e-6)`; the clip's mean stays.
"""

import dataclasses
import functools
import json

import numpy as np
from jaxtyping import Float, Float32

from elastic_ast_jax.audio.frontend import FrontendSpec, hertz_to_mel
from elastic_ast_jax.utils.hashing import text_hash

PREEMPHASIS = 0.97
# Smallest mel energy: the resolution of float32 at 1.
ENERGY_FLOOR = float(np.finfo(np.float32).eps)
# Kind 'librosa' adds this to a mel magnitude before the logarithm.
MAGNITUDE_OFFSET = 1e-6
# Frames per part, and the samples of their transforms, so that memory beyond the result grows
# neither with the clip nor with the length of the transform.
_PART = 4096
_PART_SAMPLES = 1 << 23
# Version 1 of a spec's hash lists its values by name. Fields of later versions count only if they
# differ from their first default.
_LATER_FIELDS = {'kind': 'kaldi', 'fft': 0, 'min_frames': 0}
# Fingerprints of the same features differ by at most this much, in normalized log-mel.
_TOLERANCE = 1e-3


def hanning(window: int) -> Float32[np.ndarray, 'window']:
    """Return the symmetric Hann window, 0 at both ends."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))).astype(np.float32)


def hann(window: int) -> Float32[np.ndarray, 'window']:
    """Return the periodic Hann window of librosa, 0 at its beginning only."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)


def filters(spec: FrontendSpec) -> Float32[np.ndarray, 'spectrum mels']:
    """Return the mel filters of a spec over the bins of a real FFT of `spec.fft_length`."""
    make = _htk_filters if spec.kind == 'librosa' else mel_filters
    return make(
        spec.sample_rate, spec.fft_length, spec.mel_bins, spec.lowest_hertz, spec.highest_hertz
    )


@functools.lru_cache(maxsize=8)
def _htk_filters(
    sample_rate: int, fft_length: int, bins: int, lowest_hertz: float, highest_hertz: float
) -> Float32[np.ndarray, 'spectrum mels']:
    """Return HTK's triangles, linear in Hz, between two frequencies."""
    import librosa  # costs more than a second

    triangles = librosa.filters.mel(
        sr=sample_rate,
        n_fft=fft_length,
        n_mels=bins,
        fmin=lowest_hertz,
        fmax=highest_hertz,
        htk=True,
        norm=None,
    ).T.copy()
    triangles.setflags(write=False)  # callers share the cached array
    return triangles


@functools.lru_cache(maxsize=8)
def mel_filters(
    sample_rate: int,
    fft_length: int,
    bins: int,
    lowest_hertz: float = 20.0,
    highest_hertz: float = 0.0,
) -> Float32[np.ndarray, 'spectrum mels']:
    """Return Kaldi's triangular mel filters over the bins of a real FFT.

    They reach from `lowest_hertz` to `highest_hertz`, or to half the sample rate if that is 0.
    Kaldi's triangles are linear in mel, not in Hz; see `frontend.hertz_to_mel`.
    """
    highest_hertz = highest_hertz or sample_rate / 2
    edges = np.linspace(hertz_to_mel(lowest_hertz), hertz_to_mel(highest_hertz), bins + 2)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    spectrum = hertz_to_mel(np.arange(fft_length // 2) * sample_rate / fft_length)[:, None]
    triangles = np.minimum(
        (spectrum - lower) / (center - lower), (upper - spectrum) / (upper - center)
    )
    filters = np.zeros((fft_length // 2 + 1, bins), np.float32)  # Kaldi ignores the Nyquist bin
    filters[:-1] = np.maximum(0.0, triangles)
    filters.setflags(write=False)  # callers share the cached array
    return filters


def center_frequencies(spec: FrontendSpec) -> Float[np.ndarray, 'mels']:
    """Return the center of each mel filter in Hz; both kinds use evenly spaced mels."""
    return spec.filter_edges()[1:-1]


def log_mel(
    waveform: Float[np.ndarray, 'samples'], spec: FrontendSpec, shift: int | None = None
) -> Float32[np.ndarray, 'frames mels']:
    """Return the natural log of the mel energies of one clip, before normalization.

    Args:
        waveform: Samples in [-1, 1] at `spec.sample_rate`. Kind `'kaldi'` removes the mean
            first, and zero-pads a waveform that is shorter than a window.
        spec: Frontend to compute.
        shift: Samples between frames; `spec.shift()` if None.

    Raises:
        ValueError: The waveform is empty or has values that are not finite.
    """
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(
            f'a waveform has shape [samples] with at least one sample, not {list(waveform.shape)}'
        )
    shift = spec.shift() if shift is None else shift
    compute = _librosa if spec.kind == 'librosa' else _kaldi
    features = compute(np.asarray(waveform, np.float32), spec, shift)
    if not np.isfinite(features).all():
        raise ValueError(
            'the waveform has values that are not finite, or too large for float32 energies'
        )
    return features


def _kaldi(samples, spec, shift):
    samples = samples - samples.mean()
    samples = np.pad(samples, (0, max(0, spec.window - len(samples))))
    count = int(spec.frames(len(samples), shift))
    all_frames = np.lib.stride_tricks.sliding_window_view(samples, spec.window)[
        : (count - 1) * shift + 1 : shift
    ]
    parts, size = [], _part_frames(spec)
    for first in range(0, count, size):
        frames = all_frames[first : first + size]
        frames = frames - frames.mean(axis=1, keepdims=True)
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        windowed = (frames - np.float32(PREEMPHASIS) * before) * hanning(spec.window)
        spectrum = np.fft.rfft(windowed, spec.fft_length, axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        parts.append(power.astype(np.float32) @ filters(spec))
    return np.log(np.maximum(np.concatenate(parts), np.float32(ENERGY_FLOOR)))


def _librosa(samples, spec, shift):
    import librosa  # costs more than a second

    # The padding of librosa would warn of clips that are shorter than the transform.
    padded = np.pad(samples, spec.fft // 2)
    parts, size = [], _part_frames(spec)
    for first in range(0, int(spec.frames(len(samples), shift)), size):
        part = padded[first * shift :][: (size - 1) * shift + spec.fft]
        spectrum = librosa.stft(
            part,
            n_fft=spec.fft,
            hop_length=shift,
            win_length=spec.window,
            window='hann',
            center=False,
        )
        parts.append(np.abs(spectrum).T @ filters(spec))
    return np.log(np.concatenate(parts) + np.float32(MAGNITUDE_OFFSET))


def _part_frames(spec: FrontendSpec) -> int:
    """Return the frames per part."""
    return max(1, min(_PART, _PART_SAMPLES // spec.fft_length))


def normalize(
    log_mels: Float[np.ndarray, 'frames mels'], spec: FrontendSpec
) -> Float32[np.ndarray, 'frames mels']:
    """Return `(x - mean) / (2 * std)`, AST's convention."""
    return ((log_mels - spec.mean) / (2 * spec.std)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Identify the output of a frontend; stored with a model and compared at loading.

    Attributes:
        spec: Short hash of the spec.
        golden: Means and deviations of the features of a golden waveform, a pair for each mel
            patch. They are not hashed, since machines round differently.
    """

    spec: str
    golden: tuple[float, ...]

    def matches(self, other: 'Fingerprint') -> bool:
        """Return whether both have the same spec, and the same features up to rounding."""
        same_count = len(self.golden) == len(other.golden)
        return (
            self.spec == other.spec
            and same_count
            and np.allclose(self.golden, other.golden, atol=_TOLERANCE)
        )


def fingerprint(spec: FrontendSpec) -> Fingerprint:
    """Return the fingerprint of a spec.

    It changes with the spec, and with the features that this code computes.
    """
    n = np.arange(2 * spec.sample_rate // 10 + 3 * spec.window)
    seconds = n / spec.sample_rate
    sweep = 0.5 * np.sin(2 * np.pi * (200 + 0.1 * spec.sample_rate * seconds) * seconds)
    golden = sweep + 0.1 * (((n * n) % 97) / 48.0 - 1.0)
    features = normalize(log_mel(golden.astype(np.float32), spec), spec)
    patches = features.reshape(len(features), spec.mel_patches, spec.patch_mels)
    summary = np.stack([patches.mean(axis=(0, 2)), patches.std(axis=(0, 2))], axis=1).ravel()
    return Fingerprint(_spec_hash(spec), tuple(round(float(value), 5) for value in summary))


def _spec_hash(spec: FrontendSpec) -> str:
    """Return the short hash of a spec, of version 1, which every stored model has."""
    values = {
        name: value
        for name, value in spec.hash_values().items()
        if name not in _LATER_FIELDS or value != _LATER_FIELDS[name]
    }
    return text_hash(json.dumps(values, sort_keys=True))[:16]

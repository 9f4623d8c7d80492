"""Convert samples to frames, patches and tokens; no other module repeats this arithmetic.

All results are integers, known before a sample is read. Index, plan, frontend, pipeline and
prediction get every length from a `FrontendSpec`.

Array arguments work too: the functions consist of `//`, comparisons and `maximum`, so a NumPy array
of clips gives an array of lengths.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float64

# A product such as 10.0 * 2.3 may be a rounding error below the exact integer.
_ROUNDING = 1e-6
# Lowest frequency of the mel filters in Hz where `f_min` is 0, as in AST and in EPIC-SOUNDS.
_LOWEST_HZ = {'kaldi': 20.0, 'librosa': 0.0}
# Largest share of mel filters without a frequency of the transform, where a range is chosen. AST's
# frontend has one of 128.
_MOST_EMPTY = 0.05


def hertz_to_mel(hertz: Any) -> Any:
    """Return frequencies in mel: `1127 ln(1 + f / 700)`, as in Kaldi and HTK."""
    return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)


def mel_to_hertz(mels: Any) -> Any:
    """Return mels in Hz; see `hertz_to_mel`."""
    return 700.0 * np.expm1(np.asarray(mels, np.float64) / 1127.0)


@dataclasses.dataclass(frozen=True)
class FrontendSpec:
    """Describe the frontend, from waveform to patches; config and checkpoint have equal ones.

    Attributes:
        kind: `'kaldi'` is AST's log-mel filterbank, `'librosa'` is the filterbank of EPIC-SOUNDS;
            see `audio.fbank`.
        sample_rate: Rate in Hz that every recording is resampled to.
        window_ms: Length of an analysis window in milliseconds.
        shift_ms: Distance between frames in milliseconds at frame-shift ratio 1.
        fft: Length of the Fourier transform of kind `'librosa'`. Kind `'kaldi'` requires 0: the
            window's next power of two.
        mel_bins: Number of mel bins (F of a log-mel `[frames, mels]`).
        f_min: Lowest frequency of the mel filters in Hz. 0: that of the kind, 20 Hz (`'kaldi'`) or
            0 Hz (`'librosa'`).
        f_max: Highest frequency of the mel filters in Hz. 0: half the sample rate.
        mean: Mean of the log-mel. The model gets `(log_mel - mean) / (2 * std)` (AST's convention).
        std: Standard deviation of the log-mel.
        patch_mels: Mel bins of a patch. Patches do not overlap.
        patch_frames: Frames of a patch.
        partial: Filling of the last patch of a clip. `'pad'`: zeros after normalization, the data
            set's mean. `'zero'`: log-mel 0 before normalization, loud frames of mel energy 1, as
            published ASTs are trained. `'floor'`: its frames are dropped, as in the published
            ElasticAST. `'edge'`: the last frame is repeated, for one more patch if nothing is left
            over, as in the published code on EPIC-SOUNDS. `'repeat'`: the clip starts over, as the
            published ASTs repeat short clips. A clip shorter than one patch is padded to one patch
            in all five cases.
        min_frames: A shorter clip is padded to this many frames (192 on EPIC-SOUNDS).
        fixed_frames: Every clip is padded or cropped to this many frames at frame-shift ratio 1,
            and to `int(fixed_frames / ratio)` frames at another, in whole patches (published on
            AudioSet and VGGSound: 1024). 0: clips keep their lengths.
        max_frames: Longest clip in frames, which is the length of the time position table.
    """

    kind: str = 'kaldi'
    sample_rate: int = 16000
    window_ms: float = 25.0
    shift_ms: float = 10.0
    fft: int = 0
    mel_bins: int = 128
    mean: float = -4.2677393
    std: float = 4.5689974
    patch_mels: int = 16
    patch_frames: int = 16
    partial: str = 'pad'
    min_frames: int = 0
    fixed_frames: int = 0
    max_frames: int = 1024
    f_min: float = 0.0
    f_max: float = 0.0

    def hash_values(self) -> dict[str, Any]:
        """Return the values of a stored hash by frozen names, which outlive renamed fields."""
        # A later key enters only with another value than its default, so that stored hashes hold.
        later = {
            name: value
            for name in ('fixed_frames', 'f_min', 'f_max')
            if (value := getattr(self, name))
        }
        return later | {
            'kind': self.kind,
            'sample_rate': self.sample_rate,
            'window_ms': self.window_ms,
            'shift_ms': self.shift_ms,
            'fft': self.fft,
            'mel_bins': self.mel_bins,
            'mean': self.mean,
            'std': self.std,
            'patch_mels': self.patch_mels,
            'patch_frames': self.patch_frames,
            'partial': self.partial,
            'min_frames': self.min_frames,
            'max_frames': self.max_frames,
        }

    def problems(self) -> list[str]:
        """Return one sentence for each fault that makes this spec unusable."""
        problems = []
        for name in (
            'sample_rate',
            'window_ms',
            'shift_ms',
            'mel_bins',
            'std',
            'patch_mels',
            'patch_frames',
            'max_frames',
        ):
            if not 0 < getattr(self, name) < math.inf:
                problems.append(
                    f'frontend.{name}={getattr(self, name)} must be positive and finite'
                )
        if self.kind not in ('kaldi', 'librosa'):
            problems.append(
                f"frontend.kind={self.kind!r} must be 'kaldi' (AST's filterbank) or 'librosa' (the"
                ' filterbank of EPIC-SOUNDS)'
            )
        if self.partial not in ('pad', 'zero', 'floor', 'edge', 'repeat'):
            problems.append(
                f"frontend.partial={self.partial!r} must be 'pad' (fill the last patch with the"
                " mean), 'zero' (with log-mel 0), 'floor' (drop its frames), 'edge' (repeat the"
                " last frame) or 'repeat' (start the clip over)"
            )
        if not 0 <= self.fixed_frames <= self.max_frames:
            problems.append(
                f'frontend.fixed_frames={self.fixed_frames} must be from 0 to'
                f' frontend.max_frames={self.max_frames}'
            )
        if self.fft < 0 or not 0 <= self.min_frames <= self.max_frames:
            problems.append(
                f'frontend.fft={self.fft} must not be negative, and'
                f' frontend.min_frames={self.min_frames} must be from 0 to'
                f' frontend.max_frames={self.max_frames}'
            )
        if not math.isfinite(self.mean):
            problems.append(f'frontend.mean={self.mean} must be finite')
        return (problems + self._range_problems()) or self._size_problems()

    def _range_problems(self) -> list[str]:
        """Return the faults of the frequency range."""
        problems, nyquist = [], self.sample_rate / 2
        for name in ('f_min', 'f_max'):
            if not 0 <= getattr(self, name) < math.inf:
                default = 'half the sample rate' if name == 'f_max' else "the kind's own"
                problems.append(
                    f'frontend.{name}={getattr(self, name)} must be a frequency in Hz, or 0 for'
                    f' {default}'
                )
        if problems or not 0 < self.sample_rate < math.inf or self.kind not in _LOWEST_HZ:
            return problems
        if self.f_max > nyquist:
            problems.append(
                f'frontend.f_max={self.f_max:g} is above {nyquist:g} Hz, half of'
                f' frontend.sample_rate={self.sample_rate}: lower it, set it to 0 for'
                f' {nyquist:g} Hz, or raise the sample rate'
            )
        elif self.lowest_hertz >= self.highest_hertz:
            end = f'frontend.f_max={self.f_max:g}' if self.f_max else 'half the sample rate'
            problems.append(
                f'frontend.f_min={self.f_min:g} gives mel filters from {self.lowest_hertz:g} Hz,'
                f' which must be below their end, {self.highest_hertz:g} Hz ({end})'
            )
        return problems

    def _filter_problems(self) -> list[str]:
        """Return the fault of a chosen range whose mel filters fall between frequencies."""
        empty = self.count_empty_filters()
        if not (self.f_min or self.f_max) or empty <= _MOST_EMPTY * self.mel_bins:
            return []
        fit = next(
            (
                bins
                for bins in range(self.mel_bins - self.patch_mels, 0, -self.patch_mels)
                if not dataclasses.replace(self, mel_bins=bins).count_empty_filters()
            ),
            0,
        )
        fewer = f'frontend.mel_bins={fit}, ' if fit else ''
        samples = math.ceil(self.sample_rate / self.narrowest_filter_hertz)
        longer = f'frontend.window_ms={math.ceil(1000 * samples / self.sample_rate)} or longer'
        if self.kind == 'librosa':
            longer = f'frontend.fft={samples + samples % 2} or more'
        return [
            f'frontend.mel_bins={self.mel_bins} from {self.lowest_hertz:g} to'
            f' {self.highest_hertz:g} Hz are too narrow: {empty} of the filters have no frequency'
            f' of the transform, which are {self.sample_rate / self.fft_length:.4g} Hz apart: use'
            f' {fewer}{longer}, or a wider range'
        ]

    def _size_problems(self) -> list[str]:
        """Return the faults of sizes that do not fit together."""
        problems = []
        if self.mel_bins % self.patch_mels:
            problems.append(
                f'frontend.mel_bins={self.mel_bins} is not a multiple of'
                f' frontend.patch_mels={self.patch_mels}: use'
                f' {self.mel_bins // self.patch_mels * self.patch_mels or self.patch_mels} mel bins'
                ' or another patch size'
            )
        if self.max_frames % self.patch_frames:
            problems.append(
                f'frontend.max_frames={self.max_frames} is not a multiple of'
                f' frontend.patch_frames={self.patch_frames}: use'
                f' {-(-self.max_frames // self.patch_frames) * self.patch_frames}'
            )
        if self.window < 2 or self.shift() < 1:
            problems.append(
                f'frontend.window_ms={self.window_ms} and frontend.shift_ms={self.shift_ms} must be'
                f' at least two samples and one sample at {self.sample_rate} Hz'
            )
        if self.kind == 'kaldi' and self.fft:
            problems.append(
                f"frontend.fft={self.fft} goes with frontend.kind='librosa': set it to 0"
            )
        if self.kind == 'librosa' and self.fft % 2:
            problems.append(f'frontend.fft={self.fft} must be even')
        if self.kind == 'librosa' and self.fft < self.window:
            problems.append(
                f'frontend.fft={self.fft} is shorter than the window of {self.window} samples: set'
                ' it to 2048, say'
            )
        return problems or self._filter_problems()

    @property
    def lowest_hertz(self) -> float:
        """Return the lower end of the lowest mel filter in Hz."""
        return float(self.f_min or _LOWEST_HZ[self.kind])

    @property
    def highest_hertz(self) -> float:
        """Return the upper end of the highest mel filter in Hz."""
        return float(self.f_max or self.sample_rate / 2)

    @property
    def narrowest_filter_hertz(self) -> float:
        """Return the width of the lowest mel filter in Hz, which is the narrowest."""
        edges = self.filter_edges()
        return float(edges[2] - edges[0])

    def count_empty_filters(self) -> int:
        """Return the number of mel filters that hold no frequency of the transform.

        Their mel bins are the floor of the log-mel in every clip.
        """
        edges = self.filter_edges() * self.fft_length / self.sample_rate
        return int((np.floor(edges[:-2] + _ROUNDING) + 1 >= edges[2:] - _ROUNDING).sum())

    def filter_edges(self) -> Float64[np.ndarray, 'edges']:
        """Return the ends and centers of all mel filters in Hz, `[mel_bins + 2]`."""
        lowest, highest = hertz_to_mel([self.lowest_hertz, self.highest_hertz])
        return mel_to_hertz(np.linspace(lowest, highest, self.mel_bins + 2))

    @property
    def window(self) -> int:
        """Return the samples in an analysis window (Kaldi truncates)."""
        return int(self.sample_rate * self.window_ms * 0.001 + _ROUNDING)

    @property
    def fft_length(self) -> int:
        """Return the length of the Fourier transform in samples.

        It is `fft`, or the window rounded up to a power of two, as in Kaldi.
        """
        return self.fft or 1 << (self.window - 1).bit_length()

    @property
    def lead_samples(self) -> int:
        """Return the samples by which the window of the first frame precedes the clip.

        Frames of librosa are centered, those of Kaldi are not.
        """
        return self.fft // 2 - (self.fft - self.window) // 2 if self.kind == 'librosa' else 0

    @property
    def tail_samples(self) -> int:
        """Return the samples by which the window of the last frame exceeds `samples_for`."""
        return self.window - self.lead_samples if self.kind == 'librosa' else 0

    @property
    def mel_patches(self) -> int:
        """Return the patches in frequency, the rows of a clip's patch grid."""
        return self.mel_bins // self.patch_mels

    @property
    def max_time_patches(self) -> int:
        """Return the time patches of the longest clip, the rows of the time position table."""
        return self.max_frames // self.patch_frames

    @property
    def patch_size(self) -> int:
        """Return the number of values in a patch (P of a PackedBatch)."""
        return self.patch_mels * self.patch_frames

    @property
    def repeats_frames(self) -> bool:
        """Return whether frames of the clip fill up its last patch, see `partial`."""
        return self.partial in ('edge', 'repeat')

    @property
    def fill_value(self) -> float:
        """Return the normalized value of padding frames, see `partial`.

        `'edge'` and `'repeat'` repeat frames instead.
        """
        return -self.mean / (2 * self.std) if self.partial == 'zero' else 0.0

    def shift(self, ratio: float = 1.0) -> int:
        """Return the samples between frames at a frame-shift ratio.

        The shift is `int(shift_ms * ratio)`, in whole milliseconds as in the paper. At ratio 1 it
        is `shift_ms` itself, which may have a fraction.
        """
        return int(self.sample_rate * self.rounded_shift_ms(ratio) * 0.001 + _ROUNDING)

    def rounded_shift_ms(self, ratio: float = 1.0) -> float:
        """Return the frame shift in milliseconds that `shift` rounds down to whole samples."""
        return float(self.shift_ms if ratio == 1.0 else int(self.shift_ms * ratio + _ROUNDING))

    def frames(self, samples: Any, shift: Any) -> Any:
        """Return the number of frames of a waveform.

        Kind `'kaldi'` counts the windows that fit completely (Kaldi's `snip_edges`), but at least
        one, of a zero-padded waveform. Kind `'librosa'` counts the windows whose centers are within
        the waveform.
        """
        if self.kind == 'librosa':
            return 1 + samples // shift
        return np.maximum(1, 1 + (samples - self.window) // shift)

    def samples_for(self, frames: Any, shift: Any) -> Any:
        """Return the smallest number of samples that gives this many frames."""
        if self.kind == 'librosa':
            return np.maximum(1, (frames - 1) * shift)
        return self.window + (frames - 1) * shift

    def repeated_frames(self, number: Any, frames: Any) -> Any:
        """Return the frame of a clip of `frames` frames that stands at each number.

        Numbers beyond the clip give the frame that fills up the last patch, see `partial`.
        """
        return number % frames if self.partial == 'repeat' else np.minimum(number, frames - 1)

    def time_patches(self, frames: Any, shift: Any = None) -> Any:
        """Return the number of time patches by the rule of `partial`, at least one.

        Args:
            frames: Frames of a clip.
            shift: Samples between frames. None: those at frame-shift ratio 1.
        """
        whole = frames // self.patch_frames
        if self.partial in ('pad', 'zero', 'repeat'):
            whole = -(-frames // self.patch_frames)
        # A clip that fits without a patch of repetitions stays within the last position.
        if self.partial == 'edge':
            whole = np.where(
                frames <= self.max_frames, np.minimum(whole + 1, self.max_time_patches), whole + 1
            )
        if self.fixed_frames:
            own = self.shift()
            fixed = self.fixed_frames * own // (own if shift is None else shift)
            fixed = np.minimum(fixed // self.patch_frames, self.max_time_patches)
            whole = np.clip(whole, fixed, fixed)
        return np.maximum(max(1, -(-self.min_frames // self.patch_frames)), whole)

    def too_long(self, frames: Any) -> Any:
        """Return whether a clip has more time patches than the model has positions."""
        return self.time_patches(frames) > self.max_time_patches

    def tokens(self, frames: Any, shift: Any = None) -> Any:
        """Return the tokens of a clip: mel patches times time patches; see `time_patches`."""
        return self.mel_patches * self.time_patches(frames, shift)


def resampled_length(samples: Any, sample_rate: Any, target: int) -> Any:
    """Return the samples after resampling from `sample_rate` to `target` Hz.

    The result is `ceil(samples * target / sample_rate)` in integers, as in librosa.
    """
    return -(-samples * target // sample_rate)

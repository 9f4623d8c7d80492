"""Choose the frontend from a survey of the clips: sample rate, frequency range, frames."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from elastic_ast_jax.audio.frontend import FrontendSpec, hertz_to_mel
from elastic_ast_jax.configure.choice import Choice
from elastic_ast_jax.configure.spectrum import Band
from elastic_ast_jax.configure.survey import Survey
from elastic_ast_jax.utils.errors import UserError

__all__ = ['FrontendChoice', 'choose_frontend']

_RATES = (8000, 16000, 22050, 32000, 44100, 48000, 96000, 192000, 256000, 384000)
# Lower rates, for sounds that have a clear range.
_LOW_RATES = (1000, 2000, 4000)
# The Nyquist frequency is this much above the band edge, for the filter of the resampling; a range
# reaches as far beyond the sounds.
_MARGIN = 1.1
# Share of the mels of the whole range that each end of a range has to leave out.
_CLEAR = 0.1
# Hertz that a range has at least; fewer would need windows longer than the sounds.
_NARROWEST = 100.0
# What a product such as 200 * 1.1 may be above the exact number, in units of its second digit.
_ROUNDING = 1e-6
_USUAL = FrontendSpec()
# Up to this sample rate there are half as many mel bins.
_FEW_BINS_RATE = 8000
# Clips of a median below this many seconds get twice as many frames.
_SHORT_SECONDS = 1.0
_RATIOS = (0.8, 1.0, 1.2)
# Clips of up to this many seconds are used whole; longer ones in windows. For frames of 10 ms.
_LONGEST_SECONDS, _WINDOW_SECONDS = 30.0, 10.0
# Windows in milliseconds that a range may have, and those of one that begins at a high frequency,
# whose filters are wide and whose sounds are short.
_WINDOWS, _SHORT_WINDOWS, _HIGH_HERTZ = (25.0, 50.0, 100.0, 200.0), (4.0, 8.0, 16.0), 10_000.0
# Frame shifts in milliseconds beside other windows than the usual one, and the frames that half of
# the clips have then.
_SHIFTS, _FRAMES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0), 100


class FrontendChoice(NamedTuple):
    """Hold a frontend, the frame-shift ratios of training, and the chosen keys."""

    frontend: FrontendSpec
    ratios: tuple[float, ...]
    choices: list[Choice]


def choose_frontend(survey: Survey) -> FrontendChoice:
    """Choose the frontend.

    Raises:
        UserError: The recordings have too low a sample rate.
    """
    spec, rate_choices = _choose_range(survey)
    spec = _choose_window(spec)
    median = float(np.median(survey.seconds))
    spec = dataclasses.replace(spec, shift_ms=_choose_shift(spec, median))
    ratios = _choose_ratios(spec.shift_ms)
    if spec.problems() or spec.shift(min(ratios)) < 1:
        raise UserError(
            f'recordings of {spec.sample_rate} Hz are too slow for a frame shift of'
            f' {spec.shift_ms:g} ms: write a config by hand, as configs/manifest.py, with a larger'
            ' frontend.shift_ms'
        )
    max_frames, frames_reason = _choose_length(spec, ratios, survey)
    choices = [
        Choice('data', 'too_long', 'window', 'longer clips are evaluated in windows'),
        *rate_choices,
        Choice(
            'frontend',
            'mel_bins',
            spec.mel_bins,
            'as many as the transform resolves' if spec.mel_bins < _USUAL.mel_bins else '',
        ),
        *_frame_choices(spec, median),
        Choice('frontend', 'max_frames', max_frames, frames_reason),
    ]
    return FrontendChoice(dataclasses.replace(spec, max_frames=max_frames), ratios, choices)


def _choose_range(survey: Survey) -> tuple[FrontendSpec, list[Choice]]:
    """Choose sample rate and frequency range; those of all sounds unless the range is clear."""
    energy = f'nine of ten clips have 99.5 % of their energy below {survey.edge:.0f} Hz'
    rate, reason = _choose_rate(survey, 2 * _MARGIN * survey.edge, _RATES, energy)
    spec, band = FrontendSpec(sample_rate=rate), survey.band
    sounds = ''
    if band is not None:
        sounds = f'nine of ten clips have their sounds from {band.low:.0f} to {band.high:.0f} Hz'
        spec = _narrow(spec, band)
        if spec.f_max:
            # What is above the range does not count, also if it has energy.
            rate, reason = _choose_rate(survey, 2 * spec.f_max, (*_LOW_RATES, *_RATES), sounds)
        elif spec.f_min and rate < 2 * band.high:
            rate, reason = _choose_rate(survey, 2 * band.high, _RATES, sounds)
        spec = _narrow(dataclasses.replace(spec, sample_rate=rate), band)
    bins = _USUAL.mel_bins // 2 if rate <= _FEW_BINS_RATE else _USUAL.mel_bins
    choices = [Choice('frontend', 'sample_rate', rate, reason)]
    if spec.f_min:
        text = f'mel bins leave out what lies below: {sounds}'
        choices.append(Choice('frontend', 'f_min', spec.f_min, text))
    if spec.f_max:
        text = 'mel bins leave out what lies above' + ('' if spec.f_min else f': {sounds}')
        choices.append(Choice('frontend', 'f_max', spec.f_max, text))
    return dataclasses.replace(spec, mel_bins=bins), choices


def _narrow(spec: FrontendSpec, band: Band) -> FrontendSpec:
    """Return the spec with a range around a band, as far as that leaves out much."""
    f_min = _round_down(band.low / _MARGIN)
    f_max = _round_up(max(band.high * _MARGIN, f_min + _NARROWEST))
    whole = dataclasses.replace(spec, f_min=0.0, f_max=0.0)
    lowest, low, high, highest = hertz_to_mel(
        [whole.lowest_hertz, f_min, min(f_max, whole.highest_hertz), whole.highest_hertz]
    )
    f_max = f_max if highest - high >= _CLEAR * (highest - lowest) else 0.0
    # Below the frequencies of the usual range there are sounds, too.
    deep = f_max and f_min < whole.lowest_hertz
    f_min = max(1.0, f_min) if deep or low - lowest >= _CLEAR * (high - lowest) else 0.0
    return dataclasses.replace(spec, f_min=f_min, f_max=f_max)


def _round_down(hertz: float) -> float:
    """Return a frequency of two digits that is not above."""
    step = _step(hertz)
    return round(math.floor(hertz / step + _ROUNDING) * step, 3)


def _round_up(hertz: float) -> float:
    """Return a frequency of two digits that is not below."""
    step = _step(hertz)
    return round(math.ceil(hertz / step - _ROUNDING) * step, 3)


def _step(hertz: float) -> float:
    """Return a unit of the second digit."""
    return 10.0 ** (math.floor(math.log10(hertz)) - 1)


def _choose_rate(
    survey: Survey, needed: float, rates: tuple[int, ...], sounds: str
) -> tuple[int, str]:
    """Return the lowest rate that is high enough, or else the recordings' own, and why."""
    lowest, native = survey.native_rates
    fitting = (rate for rate in rates if needed <= rate < native)
    rate = min(fitting, default=native) if survey.edge else native
    if rate == native:
        own = "the recordings' own"
        return rate, own if lowest == native else f'{own}, which have {lowest} Hz and more'
    return rate, f'resampling from {native} Hz discards what lies above {rate // 2} Hz: {sounds}'


def _choose_window(spec: FrontendSpec) -> FrontendSpec:
    """Return the spec with a window whose transform resolves the filters.

    Those of the usual range at usual sample rates are as they are.
    """
    if not (spec.f_min or spec.f_max) and spec.sample_rate >= _FEW_BINS_RATE:
        return spec
    windows = (*_SHORT_WINDOWS, *_WINDOWS) if spec.f_min >= _HIGH_HERTZ else _WINDOWS
    for bins in (spec.mel_bins, spec.mel_bins // 2, spec.patch_mels):
        for window_ms in windows:
            resolved = dataclasses.replace(spec, window_ms=window_ms, mel_bins=bins)
            if not resolved.count_empty_filters():
                return resolved
    return dataclasses.replace(spec, window_ms=windows[-1], mel_bins=spec.patch_mels)


def _choose_shift(spec: FrontendSpec, median: float) -> float:
    """Return a frame shift in milliseconds for clips of a median length in seconds."""
    if spec.window_ms == _USUAL.window_ms:
        return 5.0 if median < _SHORT_SECONDS else 10.0
    most = min(spec.window_ms / 2, 1000 * median / _FRAMES)
    return max((shift for shift in _SHIFTS if shift <= most), default=_SHIFTS[0])


def _choose_ratios(shift_ms: float) -> tuple[float, ...]:
    """Return frame-shift ratios that are whole milliseconds."""
    if all(float(ratio * shift_ms).is_integer() for ratio in _RATIOS):
        return _RATIOS
    return (1.0, (shift_ms + 1) / shift_ms)


def _choose_length(
    spec: FrontendSpec, ratios: tuple[float, ...], survey: Survey
) -> tuple[int, str]:
    """Return the frames of the longest clip or window, and why."""
    longest = float(survey.seconds.max())
    scale = 1.0
    if spec.window_ms != _USUAL.window_ms:
        scale = spec.shift_ms / _USUAL.shift_ms
    windowed = longest > _LONGEST_SECONDS * scale
    seconds = _WINDOW_SECONDS * scale if windowed else longest
    frames = int(spec.frames(math.ceil(seconds * spec.sample_rate), spec.shift(min(ratios))))
    max_frames = -(-frames // spec.patch_frames) * spec.patch_frames
    return max_frames, f'{seconds:.4g} s at the smallest frame shift' + (
        f'; the longest clip has {longest:.4g} s' if windowed else ', the longest clip'
    )


def _frame_choices(spec: FrontendSpec, median: float) -> list[Choice]:
    """Return the choices of window and frame shift."""
    if spec.window_ms == _USUAL.window_ms:
        short = f'half of the clips are shorter than {median:.2g} s: twice the usual resolution'
        reason = short if spec.shift_ms < _USUAL.shift_ms else ''
        return [Choice('frontend', 'shift_ms', spec.shift_ms, reason)]
    short = spec.window_ms < _USUAL.window_ms
    reason = (
        'calls of so high frequencies are short, and the filters are wide'
        if short
        else 'as long as the narrow filters of low frequencies need'
    )
    return [
        Choice('frontend', 'window_ms', spec.window_ms, reason),
        Choice('frontend', 'shift_ms', spec.shift_ms, 'at most half a window'),
    ]

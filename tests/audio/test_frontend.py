"""Test the laws of the integer arithmetic from samples to tokens."""

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec, resampled_length
from elastic_ast_jax.packing.token_dropout import tokens_after_dropout

SPEC = FrontendSpec()

specs = st.builds(
    FrontendSpec,
    sample_rate=st.sampled_from([8000, 16000, 22050, 32000, 44100, 48000]),
    window_ms=st.sampled_from([10.0, 25.0, 32.0]),
    shift_ms=st.sampled_from([5.0, 10.0, 12.5]),
    partial=st.sampled_from(['pad', 'floor']),
)
samples = st.integers(1, 5_000_000)
# Paper, section 4: 1.0, 1.2, ..., 4.0.
RATIOS = [round(1 + 0.2 * i, 1) for i in range(16)]


def test_the_default_spec_is_valid_and_equals_the_published_one():
    assert SPEC.problems() == []
    assert (SPEC.window, SPEC.shift(), SPEC.fft_length) == (400, 160, 512)
    assert (SPEC.mel_patches, SPEC.max_time_patches, SPEC.patch_size) == (8, 64, 256)
    assert SPEC.frames(160_000, SPEC.shift()) == 998  # ten seconds


@given(specs, samples, st.integers(1, 4000))
def test_frames_count_the_windows_that_fit(spec, samples, shift):
    frames = spec.frames(samples, shift)
    if samples < spec.window:
        assert frames == 1
    else:
        assert (frames - 1) * shift + spec.window <= samples < frames * shift + spec.window


@given(specs, samples, st.integers(1, 4000), st.integers(0, 10_000))
def test_more_samples_never_mean_fewer_frames_or_tokens(spec, samples, shift, more):
    few, many = spec.frames(samples, shift), spec.frames(samples + more, shift)
    assert few <= many
    assert spec.tokens(few) <= spec.tokens(many)


@given(specs, st.integers(1, 10_000), st.integers(1, 4000))
def test_samples_for_is_the_smallest_length_with_these_frames(spec, frames, shift):
    least = spec.samples_for(frames, shift)
    assert spec.frames(least, shift) == frames
    if frames > 1:
        assert spec.frames(least - 1, shift) == frames - 1


@given(st.integers(1, 10_000), st.sampled_from([1, 2, 10, 16]), st.sampled_from([1, 4, 8]))
def test_tokens_by_both_rules_for_the_last_frames(frames, patch_frames, mel_patches):
    pad = FrontendSpec(partial='pad', patch_frames=patch_frames, mel_bins=16 * mel_patches)
    floor = dataclasses.replace(pad, partial='floor')
    assert (
        (pad.time_patches(frames) - 1) * patch_frames
        < frames
        <= pad.time_patches(frames) * patch_frames
    )
    if frames >= patch_frames:
        assert (
            floor.time_patches(frames) * patch_frames
            <= frames
            < (floor.time_patches(frames) + 1) * patch_frames
        )
    else:
        assert floor.time_patches(frames) == 1
    for spec in (pad, floor):
        assert spec.tokens(frames) == mel_patches * spec.time_patches(frames)


def test_fixed_frames_are_those_of_the_published_code_at_every_ratio():
    """int(1024 / ratio) frames, less those of a part of a patch, for shorter and longer clips."""
    spec = FrontendSpec(partial='zero', fixed_frames=1024)
    for ratio in np.arange(1.0, 4.1, 0.2):
        shift = spec.shift(ratio)
        for samples in (8_000, 160_000, 170_000):
            frames = spec.frames(samples, shift)
            assert spec.time_patches(frames, shift) == int(1024 / ratio + 1e-6) // 16
    shifts = np.array([spec.shift(1.0), spec.shift(2.0), spec.shift(0.5)])
    assert spec.time_patches(np.array([1, 1, 1]), shifts).tolist() == [64, 32, 64]
    assert spec.time_patches(1) == 64 and spec.tokens(1) == 512
    assert FrontendSpec(partial='zero').hash_values() == {
        name: value for name, value in spec.hash_values().items() if name != 'fixed_frames'
    }


def test_a_range_enters_the_hash_only_if_it_is_set():
    assert FrontendSpec().hash_values().keys() & {'f_min', 'f_max'} == set()
    assert FrontendSpec(f_min=50.0).hash_values() == {**FrontendSpec().hash_values(), 'f_min': 50.0}
    assert FrontendSpec(f_max=7e3).hash_values() == {**FrontendSpec().hash_values(), 'f_max': 7e3}


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'f_min': -1.0}, 'frontend.f_min=-1.0 must be a frequency in Hz, or 0'),
        ({'f_max': math.nan}, 'frontend.f_max=nan must be a frequency in Hz, or 0'),
        ({'f_max': 8001.0}, 'frontend.f_max=8001 is above 8000 Hz, half of frontend.sample_rate'),
        ({'f_min': 4000.0, 'f_max': 4000.0}, 'must be below their end, 4000 Hz'),
        ({'f_min': 8000.0}, 'must be below their end, 8000 Hz (half the sample rate)'),
        ({'f_max': 15.0}, 'gives mel filters from 20 Hz, which must be below their end, 15 Hz'),
    ],
)
def test_a_range_that_is_none_is_explained(changes, text):
    (problem,) = FrontendSpec(**changes).problems()
    assert text in problem


def number_after(text, problem):
    match = re.search(re.escape(text) + r'(\d+)', problem)
    assert match is not None
    return int(match[1])


def test_filters_without_a_frequency_are_refused_with_what_to_do():
    narrow = FrontendSpec(sample_rate=8000, f_max=1000.0)
    (problem,) = narrow.problems()
    empty = int((~fbank.filters(narrow).any(axis=0)).sum())
    assert empty > 6 and f'{empty} of the filters have no frequency' in problem
    bins = number_after('use frontend.mel_bins=', problem)
    assert dataclasses.replace(narrow, mel_bins=bins).problems() == []
    window = float(number_after(', frontend.window_ms=', problem))
    longer = dataclasses.replace(narrow, window_ms=window)
    assert longer.problems() == [] and longer.count_empty_filters() == 0
    epic = FrontendSpec(kind='librosa', sample_rate=24000, window_ms=10.0, fft=512, f_max=1000.0)
    (problem,) = epic.problems()
    fft = number_after(' frontend.fft=', problem)
    assert dataclasses.replace(epic, fft=fft).problems() == []


def test_filters_of_the_own_range_are_never_refused():
    """Stored models have them, also where their lowest bins are empty."""
    spec = FrontendSpec(sample_rate=4000)
    assert spec.count_empty_filters() > 6 and spec.problems() == []


@pytest.mark.filterwarnings('ignore:Empty filters')
@pytest.mark.parametrize(
    'spec',
    [
        FrontendSpec(),
        FrontendSpec(sample_rate=8000),
        FrontendSpec(sample_rate=8000, f_max=700.0),
        FrontendSpec(sample_rate=48000, f_min=3000.0, mel_bins=512),
        FrontendSpec(kind='librosa', sample_rate=24000, window_ms=10.0, fft=512),
    ],
)
def test_empty_filters_are_counted(spec):
    assert spec.count_empty_filters() == (~fbank.filters(spec).any(axis=0)).sum()


def test_a_clip_that_repeats_starts_over():
    spec = FrontendSpec(partial='repeat', min_frames=32)
    assert spec.time_patches(5) == 2
    assert spec.repeated_frames(np.arange(12), 5).tolist() == [0, 1, 2, 3, 4] * 2 + [0, 1]
    edge = dataclasses.replace(spec, partial='edge')
    assert edge.repeated_frames(np.arange(7), 5).tolist() == [0, 1, 2, 3, 4, 4, 4]


@pytest.mark.parametrize('partial', ['pad', 'floor'])
@pytest.mark.parametrize('samples', [1, 399, 400, 401, 2799])
def test_a_clip_shorter_than_a_window_or_a_patch_is_one_patch(partial, samples):
    spec = FrontendSpec(partial=partial)
    frames = spec.frames(samples, spec.shift())
    assert frames >= 1
    assert spec.time_patches(frames) == 1
    assert spec.tokens(frames) == spec.mel_patches


@given(specs, st.lists(samples, min_size=1, max_size=20), st.integers(1, 4000))
def test_arrays_equal_single_numbers(spec, samples, shift):
    frames = spec.frames(np.array(samples), shift)
    assert frames.tolist() == [spec.frames(n, shift) for n in samples]
    assert spec.tokens(frames).tolist() == [spec.tokens(n) for n in frames.tolist()]


@pytest.mark.parametrize('ratio', RATIOS + np.arange(1.0, 4.1, 0.2).tolist())
def test_a_ratio_gives_whole_milliseconds(ratio):
    """Also one that is a rounding error below the number it means, as `arange` makes them."""
    tenths = round(10 * ratio)  # 10 ms times the ratio, free of rounding
    assert SPEC.shift(ratio) == 16 * tenths
    assert FrontendSpec(sample_rate=44100).shift(ratio) == 44100 * tenths // 1000


def test_ratio_one_keeps_a_fractional_shift():
    spec = FrontendSpec(shift_ms=12.5)
    assert spec.shift() == 200
    assert spec.shift(2.1) == 26 * 16


@given(
    samples,
    st.sampled_from([8000, 11025, 22050, 44100, 48000]),
    st.sampled_from([8000, 16000, 32000]),
)
def test_resampled_length_is_the_exact_ceiling(samples, rate, target):
    result = resampled_length(samples, rate, target)
    assert isinstance(result, int)
    assert (result - 1) * rate < samples * target <= result * rate
    assert resampled_length(samples, rate, rate) == samples


@given(st.integers(1, 10_000), st.integers(1, 99))
def test_token_dropout_keeps_the_floor_of_the_share(tokens, percent):
    kept = tokens_after_dropout(np.array([tokens]), percent / 100)
    assert kept.dtype == np.int64
    assert kept.tolist() == [max(1, (100 - percent) * tokens // 100)]


@given(st.integers(1, 10_000))
def test_no_token_dropout_keeps_all(tokens):
    assert tokens_after_dropout(tokens, 0.0) == tokens


@given(specs)
def test_the_transform_is_the_smallest_power_of_two_with_the_window(spec):
    assert spec.fft_length // 2 < spec.window <= spec.fft_length
    assert spec.fft_length & (spec.fft_length - 1) == 0


@pytest.mark.parametrize(
    'field, value',
    [
        ('sample_rate', 0),
        ('window_ms', -25.0),
        ('shift_ms', 0.0),
        ('mel_bins', 0),
        ('std', 0.0),
        ('std', float('nan')),
        ('patch_mels', 0),
        ('patch_frames', -16),
        ('max_frames', 0),
        ('partial', 'drop'),
        ('kind', 'mfcc'),
        ('fft', -1),
        ('min_frames', -1),
    ],
)
def test_problems_name_the_field_and_its_value(field, value):
    (problem,) = dataclasses.replace(SPEC, **{field: value}).problems()
    assert f'frontend.{field}={value!r}' in problem


def test_all_bad_fields_are_named_at_once():
    problems = dataclasses.replace(SPEC, sample_rate=-1, std=0.0, partial='').problems()
    assert len(problems) == 3
    assert [
        name
        for name in ('sample_rate', 'std', 'partial')
        if any(f'frontend.{name}=' in text for text in problems)
    ] == ['sample_rate', 'std', 'partial']


@given(st.integers(1, 300), st.integers(1, 40))
def test_sizes_without_whole_patches_come_with_valid_sizes(size, patch):
    assume(size % patch)
    mels = dataclasses.replace(SPEC, mel_bins=size, patch_mels=patch)
    (problem,) = mels.problems()
    assert f'frontend.mel_bins={size}' in problem and f'frontend.patch_mels={patch}' in problem
    advised = int(problem.split('use ')[1].split()[0])
    assert dataclasses.replace(mels, mel_bins=advised).problems() == []

    frames = dataclasses.replace(SPEC, max_frames=size, patch_frames=patch)
    (problem,) = frames.problems()
    assert f'frontend.max_frames={size}' in problem and f'frontend.patch_frames={patch}' in problem
    advised = int(problem.split('use ')[1])
    assert advised >= size
    assert dataclasses.replace(frames, max_frames=advised).problems() == []


def test_windows_and_shifts_below_a_sample_are_problems():
    for field in ('window_ms', 'shift_ms'):
        (problem,) = dataclasses.replace(SPEC, **{field: 0.01}).problems()
        assert f'frontend.{field}=0.01' in problem and '16000 Hz' in problem


# EPIC-SOUNDS has centered frames. The last frame is repeated up to the next multiple of 16, to 192
# frames at least and 3072 frames at most.
EPIC = FrontendSpec(
    kind='librosa',
    sample_rate=24_000,
    window_ms=10.0,
    shift_ms=5.0,
    fft=2048,
    mean=0.0,
    std=0.5,
    partial='edge',
    min_frames=192,
    max_frames=3072,
)


@pytest.mark.parametrize(
    'frames, padded',
    [
        (1, 192),
        (176, 192),
        (191, 192),
        (192, 208),
        (193, 208),
        (1000, 1008),
        (3055, 3056),
        (3056, 3072),
        (3071, 3072),
        (3072, 3072),
    ],
)
def test_epic_sounds_pads_to_the_next_multiple(frames, padded):
    assert EPIC.time_patches(frames) * 16 == padded
    assert not EPIC.too_long(frames)
    assert EPIC.too_long(3073)
    assert EPIC.time_patches(np.array([frames, 1])).tolist() == [padded // 16, 12]


@given(st.integers(1, 10**6))
def test_centered_frames_begin_with_the_first_sample(samples):
    frames = EPIC.frames(samples, 120)
    assert (frames - 1) * 120 <= samples < frames * 120
    fewest = int(EPIC.samples_for(frames, 120))
    assert EPIC.frames(fewest, 120) == frames and (
        fewest == 1 or EPIC.frames(fewest - 1, 120) == frames - 1
    )


def test_a_window_longer_than_the_transform_is_a_problem():
    assert EPIC.problems() == [] and EPIC.fft_length == 2048 and EPIC.lead_samples == 120
    (problem,) = dataclasses.replace(EPIC, fft=128).problems()
    assert 'frontend.fft=128' in problem and '240 samples' in problem
    assert EPIC.tail_samples == 120 and SPEC.tail_samples == 0
    (problem,) = dataclasses.replace(EPIC, fft=511).problems()
    assert 'frontend.fft=511 must be even' in problem
    (problem,) = dataclasses.replace(SPEC, fft=512).problems()
    assert "frontend.kind='librosa'" in problem
    (problem,) = dataclasses.replace(SPEC, min_frames=2000).problems()
    assert 'frontend.min_frames=2000' in problem and 'frontend.max_frames=1024' in problem

"""Draws: a pure function of (lengths, what to draw, seed, epoch), within their bounds."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.data.sampling import (
    NO_PARTNER,
    SampledClips,
    balanced_weights,
    sample_epoch,
    warped_frames,
)
from elastic_ast_jax.packing.token_dropout import kept_token_indices, tokens_after_dropout
from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.philox import Stream
from tests.data.specs import replaced, sampling_spec

FRONTEND = FrontendSpec()
RATE = FRONTEND.sample_rate
RATIOS = tuple(round(1 + 0.2 * i, 1) for i in range(16))
EVERYTHING = sampling_spec(
    shuffle=True,
    ratios=RATIOS,
    prefix_frames=384,
    too_long='crop',
    token_dropout=0.1,
    freq_mask=48,
    time_mask=0.1875,
    time_warp=0.05,
    mixup=0.5,
    mel_shift=4.0,
    roll=0.5,
    noise=0.5,
)

# From a few samples to longer than the frontend's 1024 frames.
SAMPLES = np.random.default_rng(0).integers(10, 20 * RATE, 2000)
FIELDS = [field.name for field in dataclasses.fields(SampledClips)]


def equal(a, b, but=()):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS if name not in but
    )


def test_draws_are_a_function_of_seed_and_epoch():
    first = sample_epoch(SAMPLES, FRONTEND, EVERYTHING, seed=3, epoch=5)
    sample_epoch(SAMPLES, FRONTEND, EVERYTHING, seed=4, epoch=6)  # leaves no trace
    assert equal(first, sample_epoch(SAMPLES.copy(), FRONTEND, EVERYTHING, seed=3, epoch=5))
    for seed, epoch in ((3, 6), (4, 5)):
        other = sample_epoch(SAMPLES, FRONTEND, EVERYTHING, seed, epoch)
        for name in (
            'index',
            'shift',
            'frames',
            'start',
            'freq_start',
            'freq_width',
            'time_start',
            'time_width',
        ):
            assert not np.array_equal(getattr(first, name), getattr(other, name)), name


def test_an_epoch_draws_every_clip_once():
    for epoch in range(3):
        clips = sample_epoch(SAMPLES, FRONTEND, EVERYTHING, 0, epoch).index
        assert np.array_equal(np.sort(clips), np.arange(len(SAMPLES)))
        assert np.abs(np.corrcoef(clips, np.arange(len(clips)))[0, 1]) < 0.1


def test_the_defaults_draw_nothing():
    samples = np.minimum(SAMPLES, 10 * RATE)
    clips = sample_epoch(samples, FRONTEND, sampling_spec(), seed=1, epoch=2)
    assert np.array_equal(clips.index, np.arange(len(samples)))
    assert np.array_equal(
        clips.samples, np.minimum(samples, FRONTEND.samples_for(clips.frames, 160))
    )
    assert np.array_equal(clips.frames, FRONTEND.frames(samples, 160))
    assert np.array_equal(clips.tokens, FRONTEND.tokens(clips.frames))
    assert (clips.shift == 160).all()
    assert clips.cropped == 0
    assert not any(getattr(clips, name).any() for name in ('start', 'freq_width', 'time_width'))


@pytest.mark.parametrize(
    'field, value, changes',
    [
        ('token_dropout', 0.0, {'tokens'}),
        ('freq_mask', 0, {'freq_start', 'freq_width'}),
        ('time_mask', 0.0, {'time_start', 'time_width'}),
        ('time_warp', 0.0, {'warp_from', 'warp_to'}),
        ('mixup', 0.0, {'partner', 'weight'}),
        ('mel_shift', 0.0, {'mel_shift'}),
        ('roll', 0.0, {'roll'}),
        ('noise', 0.0, {'noise'}),
    ],
)
def test_leaving_one_thing_out_changes_nothing_else(field, value, changes):
    whole = sample_epoch(SAMPLES, FRONTEND, EVERYTHING, 0, 0)
    without = sample_epoch(SAMPLES, FRONTEND, replaced(EVERYTHING, **{field: value}), 0, 0)
    assert equal(whole, without, but=changes)
    assert not any(np.array_equal(getattr(whole, name), getattr(without, name)) for name in changes)


def test_ratios_are_equally_likely():
    clips = sample_epoch(np.full(16_000, RATE), FRONTEND, sampling_spec(ratios=RATIOS), 0, 0)
    shifts, counts = np.unique(clips.shift, return_counts=True)
    assert shifts.tolist() == [FRONTEND.shift(ratio) for ratio in RATIOS]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 15 / 16)  # standard deviations


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 40 * RATE), min_size=1, max_size=50),
    st.sampled_from(['pad', 'floor']),
    st.fixed_dictionaries(
        {
            'shuffle': st.booleans(),
            'ratios': st.sampled_from([(1.0,), RATIOS, (1.5, 4.0)]),
            'prefix_frames': st.sampled_from([0, 16, 100, 384]),
            'token_dropout': st.sampled_from([0.0, 0.1, 0.5]),
            'freq_mask': st.sampled_from([0, 1, 48, 128]),
            'time_mask': st.sampled_from([0.0, 0.1875, 0.999]),
            'freq_masks': st.sampled_from([0, 1, 2]),
            'time_masks': st.sampled_from([0, 1, 3]),
            'time_warp': st.sampled_from([0.0, 0.1, 0.9]),
            'max_frames': st.sampled_from([0, 16, 500]),
        }
    ),
    st.integers(0, 100),
)
def test_draws_stay_in_their_bounds(samples, partial, fields, epoch):
    frontend, spec = (
        dataclasses.replace(FRONTEND, partial=partial),
        sampling_spec(too_long='crop', **fields),
    )
    clips = sample_epoch(np.array(samples), frontend, spec, 0, epoch)
    whole = np.array(samples)[clips.index]
    # The part that is used lies within the clip and gives just these frames.
    assert (clips.start >= 0).all() and (clips.samples >= 1).all()
    assert (clips.start + clips.samples <= whole).all()
    assert np.array_equal(frontend.frames(clips.samples, clips.shift), clips.frames)
    assert (clips.frames >= 1).all() and (clips.frames <= frontend.max_frames).all()
    assert np.array_equal(clips.time_patches, frontend.time_patches(clips.frames))
    assert (clips.time_patches <= frontend.max_time_patches).all()
    if partial == 'floor':
        assert ((clips.frames % frontend.patch_frames == 0) | (clips.time_patches == 1)).all()
    assert np.array_equal(
        clips.tokens,
        tokens_after_dropout(frontend.tokens(clips.frames), spec.augment.token_dropout),
    )
    assert (clips.frames <= (spec.max_frames or frontend.max_frames)).all()
    # Masks are narrower than their limit and lie within the clip.
    assert (clips.freq_start >= 0).all() and (clips.freq_width >= 0).all()
    assert (clips.freq_width < max(spec.augment.freq_mask, 1)).all()
    assert (clips.freq_start + clips.freq_width <= frontend.mel_bins).all()
    assert (clips.time_start >= 0).all() and (clips.time_width >= 0).all()
    assert (clips.time_width < np.maximum(1, spec.augment.time_mask * clips.frames[:, None])).all()
    assert (clips.time_start + clips.time_width <= clips.frames[:, None]).all()
    # What is warped moves by less than its limit and stays within the clip; first and last frame
    # stay.
    assert (
        np.abs(clips.warp_to - clips.warp_from)
        < np.maximum(1, spec.augment.time_warp * clips.frames)
    ).all()
    for place in (clips.warp_from, clips.warp_to):
        assert (place >= 0).all() and (place < clips.frames).all()


def test_masks_follow_their_formula():
    """Masks follow torchaudio's `mask_along_axis`.

    Width and start are truncated. The start is drawn from the range that the width before
    truncation leaves.
    """
    clips = sample_epoch(SAMPLES, FRONTEND, EVERYTHING, 0, 4)
    for axis, limit, size in (
        ('freq', 48, np.full(len(SAMPLES), 128)),
        ('time', np.floor(0.1875 * clips.frames), clips.frames),
    ):
        words = [
            philox.words(0, 4, Stream[f'{axis.upper()}_{part}'], len(SAMPLES))
            for part in ('WIDTH', 'START')
        ]
        width = philox.uniform(words[0]) * limit
        start = philox.uniform(words[1]) * (size - width)
        assert getattr(clips, f'{axis}_width')[:, 0].tolist() == [int(x) for x in width]
        assert getattr(clips, f'{axis}_start')[:, 0].tolist() == [int(x) for x in start]
    assert clips.freq_width.max() == 47


@pytest.mark.parametrize('prefix, shortest', [(384, 384), (100, 96), (8, 16)])
def test_prefixes_are_whole_patches_of_random_length_from_the_beginning(prefix, shortest):
    samples = np.concatenate(
        [np.full(3000, 8 * RATE), np.full(100, RATE // 25)]
    )  # 798 frames, and 2
    clips = sample_epoch(samples, FRONTEND, sampling_spec(prefix_frames=prefix), 0, 0)
    long = clips.frames[:3000]
    assert not (long % 16).any()
    assert np.unique(long).tolist() == list(range(shortest, 798, 16))
    assert not clips.start.any()
    assert np.array_equal(clips.samples[:3000], FRONTEND.samples_for(long, 160))
    assert (clips.frames[3000:] == 2).all() and (
        clips.samples[3000:] == 560
    ).all()  # short clips keep all their frames


def test_a_long_clip_is_cropped_at_random_in_training_and_at_its_start_otherwise():
    samples = np.array([RATE, 20 * RATE] * 500)
    for shuffle in (True, False):
        clips = sample_epoch(
            samples, FRONTEND, sampling_spec(shuffle=shuffle, too_long='crop'), 0, 0
        )
        long = samples[clips.index] > RATE
        assert clips.cropped == 500
        assert (clips.frames[long] == 1024).all() and (
            clips.samples[long] == FRONTEND.samples_for(1024, 160)
        ).all()
        assert (clips.frames[~long] == 98).all() and not clips.start[~long].any()
        slack = 20 * RATE - FRONTEND.samples_for(1024, 160)
        if shuffle:
            assert (
                clips.start[long].min() < 0.05 * slack
                and 0.95 * slack < clips.start[long].max() <= slack
            )
        else:
            assert not clips.start.any()


def test_a_crop_starts_anywhere_from_the_first_to_the_last_sample_that_leaves_enough():
    samples = np.full(5000, FRONTEND.samples_for(1025, 160))  # 160 samples, one frame, too many
    clips = sample_epoch(samples, FRONTEND, sampling_spec(shuffle=True, too_long='crop'), 0, 0)
    assert np.unique(clips.start).tolist() == list(range(161))


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 10**6))
def test_token_dropout_keeps_this_many_tokens_in_order(tokens, kept, position):
    kept = min(kept, tokens)
    indices = kept_token_indices(0, 0, position, tokens, kept)
    assert len(indices) == kept
    assert (np.diff(indices) > 0).all()
    assert indices[0] >= 0 and indices[-1] < tokens
    assert np.array_equal(indices, kept_token_indices(0, 0, position, tokens, kept))


def test_random_token_dropout_takes_a_uniform_share_of_each_clip():
    augment = {'random_token_dropout': 0.4}
    spec = sampling_spec(too_long='crop', **augment)
    whole = sample_epoch(SAMPLES, FRONTEND, sampling_spec(too_long='crop'), 0, 0)
    sampled = sample_epoch(SAMPLES, FRONTEND, spec, 0, 0)
    assert equal(whole, sampled, but=('tokens',))
    long = whole.tokens > 200
    shares = 1 - sampled.tokens[long] / whole.tokens[long]
    assert scipy.stats.kstest(shares, scipy.stats.uniform(0, 0.4).cdf).pvalue > 0.01
    assert sampled.tokens.min() >= 1


def test_a_crop_leaves_a_window_after_its_start():
    """The first frames of a random window of 12 s; clips of less than that start at 0."""
    spec = sampling_spec(shuffle=True, too_long='crop', crop_seconds=12.0)
    sampled = sample_epoch(SAMPLES, FRONTEND, spec, 0, 0)
    whole = SAMPLES[sampled.index]
    assert not sampled.start[whole <= 12 * RATE].any()
    room = whole - 12 * RATE
    assert (sampled.start[room > 0] <= room[room > 0]).all()
    shares = sampled.start[room > 0] / room[room > 0]
    assert scipy.stats.kstest(shares, scipy.stats.uniform.cdf).pvalue > 0.01


def test_token_dropout_treats_tokens_alike():
    counts = np.zeros(20)
    for position in range(2000):
        counts[kept_token_indices(0, 0, position, 20, 18)] += 1
    assert np.abs(counts - 1800).max() < 5 * np.sqrt(2000 * 0.9 * 0.1)  # standard deviations


def test_more_masks_leave_the_first_as_it_is():
    one = sample_epoch(SAMPLES, FRONTEND, EVERYTHING, 0, 0)
    more = sample_epoch(SAMPLES, FRONTEND, replaced(EVERYTHING, freq_masks=2, time_masks=3), 0, 0)
    assert more.freq_start.shape == (len(SAMPLES), 2) and more.time_width.shape == (len(SAMPLES), 3)
    for name in ('freq_start', 'freq_width', 'time_start', 'time_width'):
        assert np.array_equal(getattr(one, name)[:, 0], getattr(more, name)[:, 0])
        assert abs(np.corrcoef(getattr(more, name)[:, :2].T)[0, 1]) < 0.2 or name.startswith(
            'time'
        )  # length is shared


def test_a_cut_is_of_any_length_from_the_shortest_on_and_anywhere():
    samples = np.array([3 * RATE, RATE] * 3000)
    clips = sample_epoch(samples, FRONTEND, sampling_spec(cut_seconds=2.0), 0, 0)
    long = samples > 2 * RATE
    assert (
        not clips.start[~long].any() and (clips.frames[~long] == FRONTEND.frames(RATE, 160)).all()
    )
    frames, start = clips.frames[long], clips.start[long]
    assert frames.min() == FRONTEND.frames(2 * RATE, 160) and frames.max() > 0.99 * FRONTEND.frames(
        3 * RATE, 160
    )
    assert (
        scipy.stats.kstest(frames, scipy.stats.uniform(frames.min(), np.ptp(frames)).cdf).pvalue
        > 1e-3
    )
    remaining = 3 * RATE - clips.samples[long]  # up to a frame shift more than the cut leaves
    assert (start <= remaining).all() and scipy.stats.kstest(
        start / remaining, 'uniform'
    ).statistic < 0.05


def test_cutting_to_frames_takes_the_beginning():
    clips = sample_epoch(SAMPLES, FRONTEND, sampling_spec(max_frames=100, too_long='error'), 0, 0)
    assert np.array_equal(clips.frames, np.minimum(100, FRONTEND.frames(SAMPLES, 160)))
    assert not clips.start.any() and clips.cropped == 0


# Mixup and balanced sampling


def test_mixup_takes_its_share_any_partner_and_weights_of_a_beta_distribution():
    clips = sample_epoch(
        np.full(20_000, RATE), FRONTEND, sampling_spec(mixup=0.5, mixup_beta=10.0), 1, 2
    )
    mixed = clips.partner != NO_PARTNER
    assert abs(mixed.mean() - 0.5) < 5 * np.sqrt(0.25 / 20_000)
    assert (clips.weight[~mixed] == 1).all()
    assert scipy.stats.kstest(clips.weight[mixed], scipy.stats.beta(10, 10).cdf).pvalue > 1e-3
    assert (
        scipy.stats.kstest(clips.partner[mixed], scipy.stats.uniform(0, 20_000).cdf).pvalue > 1e-3
    )


def test_balanced_weights_are_asts():
    weights = balanced_weights([(0,), (0, 1), (2,), (0,)])
    common, rare = 1000 / 3.01, 1000 / 1.01
    np.testing.assert_allclose(weights, [common, common + rare, rare, common])


def test_balanced_sampling_draws_by_weight_with_replacement():
    targets = [(0,)] * 9000 + [(1,)] * 1000
    spec = sampling_spec(balanced=True)
    clips = sample_epoch(
        np.full(10_000, RATE), FRONTEND, spec, 0, 0, balanced_weights(targets)
    ).index
    assert abs((clips >= 9000).mean() - 0.5) < 5 * np.sqrt(0.25 / 10_000)  # both classes alike
    assert len(np.unique(clips)) < 10_000
    assert np.array_equal(
        clips,
        sample_epoch(np.full(10_000, RATE), FRONTEND, spec, 0, 0, balanced_weights(targets)).index,
    )
    assert not np.array_equal(
        clips,
        sample_epoch(np.full(10_000, RATE), FRONTEND, spec, 0, 1, balanced_weights(targets)).index,
    )


def test_balanced_sampling_takes_only_what_has_weight():
    weights = np.array([0.0, 1.0, 0.0, 3.0, 0.0])
    clips = sample_epoch(
        np.full(5, RATE), FRONTEND, sampling_spec(balanced=True), 0, 0, weights
    ).index
    assert set(clips) <= {1, 3}
    with pytest.raises(ValueError, match='balanced sampling needs weights'):
        sample_epoch(np.full(5, RATE), FRONTEND, sampling_spec(balanced=True), 0, 0)


# Time warp


def test_a_warp_moves_its_frame_keeps_the_ends_and_is_linear_between():
    before, part = warped_frames(11, 4.0, 6.0)
    place = before + part
    assert place[0] == 0 and place[10] == 10 and place[6] == 4
    np.testing.assert_allclose(np.diff(place[:7]), 4 / 6)
    np.testing.assert_allclose(np.diff(place[6:]), 6 / 4)


@given(st.integers(1, 300), st.integers(0, 10**6))
def test_no_warp_leaves_a_clip(frames, seed):
    clips = sample_epoch(
        np.array([FRONTEND.samples_for(frames, 160)]),
        FRONTEND,
        sampling_spec(time_warp=0.5),
        seed,
        0,
    )
    assert clips.frames[0] == frames
    before, part = warped_frames(frames, float(clips.warp_from[0]), float(clips.warp_to[0]))
    assert len(before) == len(part) == frames
    assert (
        (part >= 0).all()
        and (part <= 1).all()
        and (before >= 0).all()
        and (np.ceil(before + part) < frames).all()
    )
    assert (np.diff(before + part) >= 0).all()


def test_without_a_warp_frames_stay():
    before, part = warped_frames(7, 3.0, 3.0)
    np.testing.assert_allclose(before + part, np.arange(7))


@pytest.mark.parametrize(
    'field, value',
    [
        ('mask_fill', 'noise'),
        ('freq_masks', -1),
        ('cut_seconds', -1.0),
        ('mixup', 1.5),
        ('time_warp', 1.0),
        ('too_long', 'window'),
        ('ratios', ()),
        ('token_dropout', 1.0),
    ],
)
def test_a_spec_that_cannot_be_drawn_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        sampling_spec(**{field: value})


def test_pitch_beginning_and_noise_have_their_ranges():
    spec = sampling_spec(mel_shift=4.0, roll=0.25, noise=0.75)
    clips = sample_epoch(np.full(8000, RATE), FRONTEND, spec, 0, 0)
    assert -4 <= clips.mel_shift.min() < -3.9 and 3.9 < clips.mel_shift.max() < 4
    rolled = clips.roll > 0
    assert abs(rolled.mean() - 0.25) < 0.03
    assert clips.roll.max() < clips.frames[0] and clips.roll[rolled].mean() == pytest.approx(
        clips.frames[0] / 2, rel=0.05
    )
    noisy = clips.noise > 0
    assert abs(noisy.mean() - 0.75) < 0.03
    decibels = 20 * np.log10(clips.noise[noisy])
    assert -40 <= decibels.min() < -39 and -6 < decibels.max() < -5

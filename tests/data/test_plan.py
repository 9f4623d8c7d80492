"""The plan: a pure function of (lengths, what to draw, seed, epoch), with draws in their bounds and rows that are full."""

import concurrent.futures
import dataclasses
import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_ast_jax.data import random
from elastic_ast_jax.data.plan import Draws, DrawSpec, EpochPlan, PlanError, Planner, Schedule, draw, dropout_choice
from elastic_ast_jax.data.random import Stream
from elastic_ast_jax.lengths import FrontendSpec, kept_tokens
from elastic_ast_jax.packing import pack

FRONTEND = FrontendSpec()
RATE = FRONTEND.sample_rate
RATIOS = tuple(round(1 + 0.2 * i, 1) for i in range(16))
EVERYTHING = DrawSpec(
    shuffle=True, ratios=RATIOS, prefix_frames=384, too_long='crop', token_dropout=0.1, freq_mask=48, time_mask=0.1875)
# From a few samples to longer than the frontend's 1024 frames.
SAMPLES = np.random.default_rng(0).integers(10, 20 * RATE, 2000)
FIELDS = [field.name for field in dataclasses.fields(Draws)]


def equal(a, b, but=()):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS if name not in but)


def planner(samples=SAMPLES, frontend=FRONTEND, spec=EVERYTHING, seed=0, tokens=2048, slots=16):
    return Planner([f'clip{i}.wav' for i in range(len(samples))], np.asarray(samples), frontend, spec, seed, tokens, slots)


# Draws


def test_draws_are_a_function_of_seed_and_epoch():
    first = draw(SAMPLES, FRONTEND, EVERYTHING, seed=3, epoch=5)
    draw(SAMPLES, FRONTEND, EVERYTHING, seed=4, epoch=6)  # leaves no trace
    assert equal(first, draw(SAMPLES.copy(), FRONTEND, EVERYTHING, seed=3, epoch=5))
    for seed, epoch in ((3, 6), (4, 5)):
        other = draw(SAMPLES, FRONTEND, EVERYTHING, seed, epoch)
        for name in ('clip', 'shift', 'frames', 'start', 'freq_start', 'freq_width', 'time_start', 'time_width'):
            assert not np.array_equal(getattr(first, name), getattr(other, name)), name


def test_an_epoch_draws_every_clip_once():
    for epoch in range(3):
        clips = draw(SAMPLES, FRONTEND, EVERYTHING, 0, epoch).clip
        assert np.array_equal(np.sort(clips), np.arange(len(SAMPLES)))
        assert np.abs(np.corrcoef(clips, np.arange(len(clips)))[0, 1]) < 0.1


def test_the_defaults_draw_nothing():
    samples = np.minimum(SAMPLES, 10 * RATE)
    draws = draw(samples, FRONTEND, DrawSpec(), seed=1, epoch=2)
    assert np.array_equal(draws.clip, np.arange(len(samples)))
    assert np.array_equal(draws.samples, np.minimum(samples, FRONTEND.samples_for(draws.frames, 160)))
    assert np.array_equal(draws.frames, FRONTEND.frames(samples, 160))
    assert np.array_equal(draws.kept, FRONTEND.tokens(draws.frames))
    assert (draws.shift == 160).all()
    assert draws.cropped == 0
    assert not any(getattr(draws, name).any() for name in ('start', 'freq_width', 'time_width'))


@pytest.mark.parametrize('field, value, changes', [
    ('token_dropout', 0.0, {'kept'}),
    ('freq_mask', 0, {'freq_start', 'freq_width'}),
    ('time_mask', 0.0, {'time_start', 'time_width'}),
])  # fmt: skip
def test_leaving_one_thing_out_changes_nothing_else(field, value, changes):
    whole = draw(SAMPLES, FRONTEND, EVERYTHING, 0, 0)
    without = draw(SAMPLES, FRONTEND, dataclasses.replace(EVERYTHING, **{field: value}), 0, 0)
    assert equal(whole, without, but=changes)
    assert not any(np.array_equal(getattr(whole, name), getattr(without, name)) for name in changes)


def test_ratios_are_equally_likely():
    draws = draw(np.full(16_000, RATE), FRONTEND, DrawSpec(ratios=RATIOS), 0, 0)
    shifts, counts = np.unique(draws.shift, return_counts=True)
    assert shifts.tolist() == [FRONTEND.shift(ratio) for ratio in RATIOS]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 15 / 16)  # standard deviations


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 40 * RATE), min_size=1, max_size=50),
    st.sampled_from(['pad', 'floor']),
    st.fixed_dictionaries({
        'shuffle': st.booleans(), 'ratios': st.sampled_from([(1.0,), RATIOS, (1.5, 4.0)]),
        'prefix_frames': st.sampled_from([0, 16, 100, 384]), 'token_dropout': st.sampled_from([0.0, 0.1, 0.5]),
        'freq_mask': st.sampled_from([0, 1, 48, 128]), 'time_mask': st.sampled_from([0.0, 0.1875, 1.0]),
    }),
    st.integers(0, 100),
)  # fmt: skip
def test_draws_stay_in_their_bounds(samples, partial, fields, epoch):
    frontend, spec = dataclasses.replace(FRONTEND, partial=partial), DrawSpec(too_long='crop', **fields)
    draws = draw(np.array(samples), frontend, spec, 0, epoch)
    whole = np.array(samples)[draws.clip]
    # The part that is used lies within the clip and gives just these frames.
    assert (draws.start >= 0).all() and (draws.samples >= 1).all()
    assert (draws.start + draws.samples <= whole).all()
    assert np.array_equal(frontend.frames(draws.samples, draws.shift), draws.frames)
    assert (draws.frames >= 1).all() and (draws.frames <= frontend.max_frames).all()
    assert np.array_equal(draws.time_patches, frontend.time_patches(draws.frames))
    assert (draws.time_patches <= frontend.max_time_patches).all()
    if partial == 'floor':
        assert ((draws.frames % frontend.patch_frames == 0) | (draws.time_patches == 1)).all()
    assert np.array_equal(draws.kept, kept_tokens(frontend.tokens(draws.frames), spec.token_dropout))
    # Masks are narrower than their limit and lie within the clip.
    assert (draws.freq_start >= 0).all() and (draws.freq_width >= 0).all()
    assert (draws.freq_width < max(spec.freq_mask, 1)).all()
    assert (draws.freq_start + draws.freq_width <= frontend.mel_bins).all()
    assert (draws.time_start >= 0).all() and (draws.time_width >= 0).all()
    assert (draws.time_width < np.maximum(1, spec.time_mask * draws.frames)).all()
    assert (draws.time_start + draws.time_width <= draws.frames).all()


def test_masks_follow_their_formula():
    """As torchaudio's `mask_along_axis`: both numbers are truncated, the start of what the untruncated width leaves."""
    draws = draw(SAMPLES, FRONTEND, EVERYTHING, 0, 4)
    for axis, limit, size in (
        ('freq', 48, np.full(len(SAMPLES), 128)), ('time', np.floor(0.1875 * draws.frames), draws.frames),
    ):  # fmt: skip
        words = [random.words(0, 4, Stream[f'{axis.upper()}_{part}'], len(SAMPLES)) for part in ('WIDTH', 'START')]
        width = random.uniform(words[0]) * limit
        start = random.uniform(words[1]) * (size - width)
        assert getattr(draws, f'{axis}_width').tolist() == [int(x) for x in width]
        assert getattr(draws, f'{axis}_start').tolist() == [int(x) for x in start]
    assert draws.freq_width.max() == 47


@pytest.mark.parametrize('prefix, shortest', [(384, 384), (100, 96), (8, 16)])
def test_prefixes_are_whole_patches_of_random_length_from_the_beginning(prefix, shortest):
    samples = np.concatenate([np.full(3000, 8 * RATE), np.full(100, RATE // 25)])  # 798 frames, and 2
    draws = draw(samples, FRONTEND, DrawSpec(prefix_frames=prefix), 0, 0)
    long = draws.frames[:3000]
    assert not (long % 16).any()
    assert np.unique(long).tolist() == list(range(shortest, 798, 16))
    assert not draws.start.any()
    assert np.array_equal(draws.samples[:3000], FRONTEND.samples_for(long, 160))
    assert (draws.frames[3000:] == 2).all() and (draws.samples[3000:] == 560).all()  # short clips keep all their frames


def test_a_long_clip_is_cropped_at_random_in_training_and_at_its_start_otherwise():
    samples = np.array([RATE, 20 * RATE] * 500)
    for shuffle in (True, False):
        draws = draw(samples, FRONTEND, DrawSpec(shuffle=shuffle, too_long='crop'), 0, 0)
        long = samples[draws.clip] > RATE
        assert draws.cropped == 500
        assert (draws.frames[long] == 1024).all() and (draws.samples[long] == FRONTEND.samples_for(1024, 160)).all()
        assert (draws.frames[~long] == 98).all() and not draws.start[~long].any()
        slack = 20 * RATE - FRONTEND.samples_for(1024, 160)
        if shuffle:
            assert draws.start[long].min() < 0.05 * slack and 0.95 * slack < draws.start[long].max() <= slack
        else:
            assert not draws.start.any()


def test_a_crop_starts_anywhere_from_the_first_to_the_last_sample_that_leaves_enough():
    samples = np.full(5000, FRONTEND.samples_for(1025, 160))  # 160 samples, one frame, too many
    draws = draw(samples, FRONTEND, DrawSpec(shuffle=True, too_long='crop'), 0, 0)
    assert np.unique(draws.start).tolist() == list(range(161))


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 10**6))
def test_token_dropout_keeps_this_many_tokens_in_order(tokens, kept, position):
    kept = min(kept, tokens)
    chosen = dropout_choice(0, 0, position, tokens, kept)
    assert len(chosen) == kept
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0 and chosen[-1] < tokens
    assert np.array_equal(chosen, dropout_choice(0, 0, position, tokens, kept))


def test_token_dropout_treats_tokens_alike():
    counts = np.zeros(20)
    for position in range(2000):
        counts[dropout_choice(0, 0, position, 20, 18)] += 1
    assert np.abs(counts - 1800).max() < 5 * np.sqrt(2000 * 0.9 * 0.1)  # standard deviations


# Plans


def test_planners_agree_in_whatever_order_they_are_asked():
    one, other = planner(), planner()
    for epoch in (0, 1, 2, 1, 0):
        one.epoch(epoch)
    plan, same = one.epoch(1), other.epoch(1)
    assert plan.epoch == 1 and equal(plan.draws, same.draws)
    assert np.array_equal(plan.rows.clips, same.rows.clips) and np.array_equal(plan.rows.offsets, same.rows.offsets)
    assert not np.array_equal(plan.draws.clip, one.epoch(2).draws.clip)


def test_rows_hold_draws_by_the_tokens_that_are_kept():
    plan = planner(tokens=1024, slots=8).epoch(0)
    assert np.array_equal(np.sort(plan.rows.clips), np.arange(len(SAMPLES)))
    for row in plan.rows:
        assert len(row) <= 8 and plan.draws.kept[row].sum() <= 1024


def test_an_epoch_is_planned_once_for_all_threads():
    made = planner()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        plans = list(threads.map(made.epoch, [3, 4, 3, 4, 3, 4, 3, 4]))
    assert len({id(plan) for plan in plans}) == 2


def test_a_clip_that_is_too_long_is_named_with_what_helps():
    samples = [RATE, 11 * RATE, 12 * RATE, 2 * RATE]
    with pytest.raises(PlanError) as caught:
        planner(samples, spec=DrawSpec())
    text = str(caught.value)
    assert text.startswith('2 of 4 clips are longer than frontend.max_frames=1024; ')
    assert 'the longest, clip2.wav, has 1198 frames (12.00 s)' in text
    assert "data.too_long='crop'" in text
    advised = int(re.search(r'raise frontend\.max_frames to (\d+)', text)[1])
    planner(samples, dataclasses.replace(FRONTEND, max_frames=advised), DrawSpec())
    planner(samples, spec=DrawSpec(too_long='crop'))


def test_a_clip_is_too_long_at_the_smallest_shift_that_may_be_drawn():
    planner([12 * RATE], spec=DrawSpec(ratios=(1.5, 2.0)))
    with pytest.raises(PlanError, match=r'clip0\.wav, has 1198 frames'):
        planner([12 * RATE], spec=DrawSpec(ratios=(1.5, 1.0)))


@pytest.mark.parametrize('dropout, needed', [(0.0, 504), (0.1, 453)])
def test_a_clip_of_too_many_tokens_is_named_with_what_helps(dropout, needed):
    samples, spec = [RATE, 9 * RATE, 10 * RATE], DrawSpec(token_dropout=dropout)
    with pytest.raises(PlanError) as caught:
        planner(samples, spec=spec, tokens=400)
    text = str(caught.value)
    assert text.startswith(f'2 of 3 clips need more tokens than packing.tokens=400; the longest, clip2.wav, needs {needed}:')
    assert f'raise packing.tokens to at least {needed}' in text
    planner(samples, spec=spec, tokens=needed)
    advised = int(re.search(r'lower frontend\.max_frames to (\d+)', text)[1])
    planner(samples, dataclasses.replace(FRONTEND, max_frames=advised), dataclasses.replace(spec, too_long='crop'), tokens=400)


def test_the_fingerprint_tells_all_that_plans_are_a_function_of():
    prints = [made.fingerprint(data) for made, data in [
        (planner(), 'a'), (planner(), 'b'), (planner(seed=1), 'a'), (planner(tokens=2040), 'a'), (planner(slots=17), 'a'),
        (planner(spec=dataclasses.replace(EVERYTHING, freq_mask=47)), 'a'),
        (planner(frontend=dataclasses.replace(FRONTEND, partial='floor')), 'a'),
    ]]  # fmt: skip
    assert len(set(prints)) == len(prints)
    assert planner().fingerprint('a') == prints[0]


def test_fill_counts_all_rows_but_those_of_the_last_step():
    draws = draw(np.full(9, 10 * RATE), FRONTEND, DrawSpec(), 0, 0)
    kept = np.array([500, 400, 300, 600, 250, 100, 300, 400, 50])
    plan = EpochPlan(0, dataclasses.replace(draws, kept=kept), pack(kept, 700, 2))
    used = [kept[row].sum() for row in plan.rows]
    assert len(used) == 5
    assert plan.fill(2, 700) == pytest.approx(np.mean(used[:4]) / 700)
    assert plan.fill(1, 700) == pytest.approx(np.mean(used[:4]) / 700)
    assert plan.fill(4, 700) == pytest.approx(np.mean(used[:4]) / 700)
    assert plan.fill(3, 700) == pytest.approx(np.mean(used[:3]) / 700)
    assert plan.fill(5, 700) == pytest.approx(np.mean(used) / 700)
    assert plan.fill(100, 700) == pytest.approx(np.mean(used) / 700)


def test_half_a_million_clips_of_audioset_are_planned_in_seconds_and_full():
    rng = np.random.default_rng(0)
    count = 500_000
    seconds = np.where(rng.random(count) < 0.87, 10.0, rng.uniform(1, 10, count))
    spec = DrawSpec(shuffle=True, ratios=RATIOS, token_dropout=0.1, freq_mask=48, time_mask=0.1875)
    made = Planner([''] * count, (seconds * RATE).astype(np.int64), FRONTEND, spec, 0, 2048, 32)
    start = time.thread_time()
    plan = made.epoch(0)
    assert time.thread_time() - start <= 3
    assert plan.fill(16, 2048) >= 0.995


# Schedules


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 10))
def test_steps_follow_one_another_through_the_epochs(epoch_rows, rows_per_step):
    schedule = Schedule(tuple(epoch_rows), rows_per_step)
    expected = [(epoch, step) for epoch, rows in enumerate(epoch_rows) for step in range(-(-rows // rows_per_step))]
    assert schedule.steps == len(expected)
    assert [schedule.locate(step) for step in range(schedule.steps)] == expected
    assert schedule.epoch_ends.tolist() == np.cumsum([-(-rows // rows_per_step) for rows in epoch_rows]).tolist()

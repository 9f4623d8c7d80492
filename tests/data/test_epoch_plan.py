"""Plan epochs as a pure function of lengths, sampling, seed and epoch.

Samples are in their bounds, and rows are full.
"""

import concurrent.futures
import dataclasses
import re
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.data.epoch_plan import EpochPlan, PlanError, Planner, Schedule
from elastic_ast_jax.data.sampling import SampledClips, sample_epoch
from elastic_ast_jax.packing.packer import pack
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
)

# From a few samples to longer than the frontend's 1024 frames.
SAMPLES = np.random.default_rng(0).integers(10, 20 * RATE, 2000)
FIELDS = [field.name for field in dataclasses.fields(SampledClips)]


def equal(a, b, but=()):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS if name not in but
    )


def planner(
    samples: Sequence[int] | np.ndarray = SAMPLES,
    frontend=FRONTEND,
    spec=EVERYTHING,
    seed=0,
    tokens=2048,
    slots=16,
):
    return Planner(
        [f'clip{i}.wav' for i in range(len(samples))],
        np.asarray(samples),
        frontend,
        spec,
        seed,
        tokens,
        slots,
    )


def test_planners_agree_in_whatever_order_they_are_asked():
    first_planner, second_planner = planner(), planner()
    for epoch in (0, 1, 2, 1, 0):
        first_planner.epoch(epoch)
    plan, same = first_planner.epoch(1), second_planner.epoch(1)
    assert plan.epoch == 1 and equal(plan.clips, same.clips)
    assert np.array_equal(plan.rows.clips, same.rows.clips) and np.array_equal(
        plan.rows.offsets, same.rows.offsets
    )
    assert not np.array_equal(plan.clips.index, first_planner.epoch(2).clips.index)


def test_rows_hold_draws_by_the_tokens_that_are_kept():
    plan = planner(tokens=1024, slots=8).epoch(0)
    assert np.array_equal(np.sort(plan.rows.clips), np.arange(len(SAMPLES)))
    for row in plan.rows:
        assert len(row) <= 8 and plan.clips.tokens[row].sum() <= 1024


def test_an_epoch_is_planned_once_for_all_threads():
    epoch_planner = planner()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        plans = list(threads.map(epoch_planner.epoch, [3, 4, 3, 4, 3, 4, 3, 4]))
    assert len({id(plan) for plan in plans}) == 2


def test_a_clip_that_is_too_long_is_named_with_what_helps():
    samples = [RATE, 11 * RATE, 12 * RATE, 2 * RATE]
    with pytest.raises(PlanError) as caught:
        planner(samples, spec=sampling_spec())
    text = str(caught.value)
    assert text.startswith('2 of 4 clips are longer than frontend.max_frames=1024; ')
    assert 'the longest, clip2.wav, has 1198 frames (12.00 s)' in text
    assert "data.too_long='crop'" in text
    advice = re.search(r'raise frontend\.max_frames to (\d+)', text)
    assert advice is not None
    advised = int(advice[1])
    planner(samples, dataclasses.replace(FRONTEND, max_frames=advised), sampling_spec())
    planner(samples, spec=sampling_spec(too_long='crop'))


def test_a_clip_is_too_long_at_the_smallest_shift_that_may_be_drawn():
    planner([12 * RATE], spec=sampling_spec(ratios=(1.5, 2.0)))
    with pytest.raises(PlanError, match=r'clip0\.wav, has 1198 frames'):
        planner([12 * RATE], spec=sampling_spec(ratios=(1.5, 1.0)))


@pytest.mark.parametrize('dropout, needed', [(0.0, 504), (0.1, 453)])
def test_a_clip_of_too_many_tokens_is_named_with_what_helps(dropout, needed):
    samples, spec = (
        [RATE, 9 * RATE, 10 * RATE],
        sampling_spec(token_dropout=dropout),
    )
    with pytest.raises(PlanError) as caught:
        planner(samples, spec=spec, tokens=400)
    text = str(caught.value)
    assert text.startswith(
        '2 of 3 clips need more tokens than packing.tokens=400; the longest, clip2.wav, needs'
        f' {needed}:'
    )
    assert f'raise packing.tokens to at least {needed}' in text
    planner(samples, spec=spec, tokens=needed)
    advice = re.search(r'lower frontend\.max_frames to (\d+)', text)
    assert advice is not None
    advised = int(advice[1])
    planner(
        samples,
        dataclasses.replace(FRONTEND, max_frames=advised),
        replaced(spec, too_long='crop'),
        tokens=400,
    )


def test_the_fingerprint_tells_all_that_plans_are_a_function_of():
    prints = [
        epoch_planner.fingerprint(data)
        for epoch_planner, data in [
            (planner(), 'a'),
            (planner(), 'b'),
            (planner(seed=1), 'a'),
            (planner(tokens=2040), 'a'),
            (planner(slots=17), 'a'),
            (planner(spec=replaced(EVERYTHING, freq_mask=47)), 'a'),
            (planner(frontend=dataclasses.replace(FRONTEND, partial='floor')), 'a'),
        ]
    ]
    assert len(set(prints)) == len(prints)
    assert planner().fingerprint('a') == prints[0]


def test_fill_counts_all_rows_but_those_of_the_last_step():
    clips = sample_epoch(np.full(9, 10 * RATE), FRONTEND, sampling_spec(), 0, 0)
    kept = np.array([500, 400, 300, 600, 250, 100, 300, 400, 50])
    plan = EpochPlan(0, dataclasses.replace(clips, tokens=kept), pack(kept, 700, 2))
    row_tokens = [kept[row].sum() for row in plan.rows]
    assert len(row_tokens) == 5
    assert plan.fill(2, 700) == pytest.approx(np.mean(row_tokens[:4]) / 700)
    assert plan.fill(1, 700) == pytest.approx(np.mean(row_tokens[:4]) / 700)
    assert plan.fill(4, 700) == pytest.approx(np.mean(row_tokens[:4]) / 700)
    assert plan.fill(3, 700) == pytest.approx(np.mean(row_tokens[:3]) / 700)
    assert plan.fill(5, 700) == pytest.approx(np.mean(row_tokens) / 700)
    assert plan.fill(100, 700) == pytest.approx(np.mean(row_tokens) / 700)


def test_half_a_million_clips_of_audioset_are_planned_in_seconds_and_full():
    rng = np.random.default_rng(0)
    count = 500_000
    seconds = np.where(rng.random(count) < 0.87, 10.0, rng.uniform(1, 10, count))
    spec = sampling_spec(
        shuffle=True, ratios=RATIOS, token_dropout=0.1, freq_mask=48, time_mask=0.1875
    )
    epoch_planner = Planner(
        [''] * count, (seconds * RATE).astype(np.int64), FRONTEND, spec, 0, 2048, 32
    )
    start = time.thread_time()
    plan = epoch_planner.epoch(0)
    assert time.thread_time() - start <= 3
    assert plan.fill(16, 2048) >= 0.995


# Schedules


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 10))
def test_steps_follow_one_another_through_the_epochs(epoch_rows, rows_per_step):
    schedule = Schedule(tuple(epoch_rows), rows_per_step)
    expected = [
        (epoch, step)
        for epoch, rows in enumerate(epoch_rows)
        for step in range(-(-rows // rows_per_step))
    ]
    assert schedule.steps == len(expected)
    assert [schedule.locate(step) for step in range(schedule.steps)] == expected
    assert (
        schedule.epoch_ends.tolist()
        == np.cumsum([-(-rows // rows_per_step) for rows in epoch_rows]).tolist()
    )

"""Token budgets in prediction keep the same tokens as in evaluation.

A single clip gets a row of the budget's length.
"""

import dataclasses
import json
import math
import time
import warnings
from collections.abc import Sequence

import numpy as np
import pytest

import elastic_ast_jax
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.windows import make_windows
from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.checkpointing.workdir import Workdir, WorkdirError
from elastic_ast_jax.data import pipeline
from elastic_ast_jax.data.epoch_plan import Planner
from elastic_ast_jax.data.splits import make_schedule
from elastic_ast_jax.evaluation import latency
from elastic_ast_jax.inference import batching, clips
from elastic_ast_jax.inference.predictor import Predictor
from elastic_ast_jax.packing.batch import BatchShape
from elastic_ast_jax.packing.token_budget import (
    BudgetError,
    BudgetWarning,
    Measurement,
    TokenBudgets,
    TokenReduction,
)
from tests.data.specs import sampling_spec
from tests.fixtures import untrained

KALDI = FrontendSpec(sample_rate=8000, mel_bins=32, patch_frames=4, max_frames=100)
LIBROSA = FrontendSpec(
    kind='librosa',
    sample_rate=8000,
    window_ms=10.0,
    fft=256,
    mel_bins=32,
    mean=0.0,
    std=0.5,
    patch_frames=4,
    min_frames=24,
    max_frames=100,
    partial='edge',
)

# Less than a window, a few frames, and more than the model has positions for at some of the ratios.
LENGTHS = (90, 700, 1999, 3001, 5320, 8080)
REDUCTIONS = [
    TokenReduction(14, 1.0, 'crop'),
    TokenReduction(15, 1.0, 'drop'),
    TokenReduction(9, 1.4, 'crop'),
    TokenReduction(8, 2.8, 'drop'),
    TokenReduction(200, 2.0),
]


def noise(i: int, samples: int) -> np.ndarray:
    return np.random.default_rng(i).uniform(-0.5, 0.5, samples).astype(np.float32)


class Noise:
    fingerprint = 'noise'
    keys: Sequence[str] = tuple(str(i) for i in range(len(LENGTHS)))
    samples = np.array(LENGTHS)
    labels: Sequence[tuple[str, ...]] = (('noise',),) * len(LENGTHS)
    classes: tuple[str, ...] | None = None
    skipped: tuple[str, ...] = ()

    def read(self, i: int) -> np.ndarray:
        return noise(i, LENGTHS[i])


@pytest.mark.parametrize('reduction', REDUCTIONS, ids=str)
@pytest.mark.parametrize('partial', ['pad', 'zero', 'floor', 'edge', 'librosa'])
def test_the_pipeline_and_prediction_keep_the_same(partial, reduction):
    frontend = LIBROSA if partial == 'librosa' else dataclasses.replace(KALDI, partial=partial)
    source, shape = Noise(), BatchShape(2, 100, 4, frontend.patch_size, 1)
    spec = sampling_spec(ratios=(reduction.ratio,), too_long='crop', reduction=reduction)
    planner = Planner(source.keys, source.samples, frontend, spec, 0, shape.tokens, shape.slots)
    reader = pipeline.RowReader(
        source, [(0,)] * len(LENGTHS), planner, make_schedule(planner, 2, 1), shape
    )
    budget_keys = set()
    for batch in pipeline.iterate_batches(reader, 0, reader.schedule.steps, 1):
        for row, slot in zip(*np.nonzero(batch.valid), strict=True):
            number = int(batch.clip_id[row, slot])
            budget_keys.add(number)
            longest = make_windows(
                frontend, 0.0, shift=frontend.shift(reduction.ratio)
            ).length  # cropping takes the beginning
            clip = clips.clip_from_waveform(
                noise(number, LENGTHS[number])[:longest], frontend, reduction
            )
            (single,) = batching.pack_batches(
                [clip], frontend.mel_patches, shape, is_only=True, token_limit=reduction.tokens
            )
            assert single.patches.shape == (
                1,
                min(reduction.tokens, shape.tokens),
                frontend.patch_size,
            )
            assert single.valid.tolist() == [[True]]
            in_batch, in_single = batch.segment_ids[row] == slot + 1, single.segment_ids[0] == 1
            for name in ('freq_pos', 'time_pos'):
                np.testing.assert_array_equal(
                    getattr(batch, name)[row][in_batch], getattr(single, name)[0][in_single]
                )
            np.testing.assert_allclose(
                batch.patches[row][in_batch], single.patches[0][in_single], atol=2e-3
            )
    assert budget_keys == set(range(len(LENGTHS)))


def test_packed_clips_equal_single_clips():
    model = untrained.predictor()
    rate = model.config.frontend.sample_rate
    waveforms = [
        noise(i, round(rate * seconds)) for i, seconds in enumerate((0.05, 0.4, 0.9, 0.3, 0.8))
    ]
    for reduction in (TokenReduction(6), TokenReduction(5, 1.4, 'drop')):
        split = model.windows(reduction=reduction)
        recordings = clips.read_clips(waveforms, model.config.frontend, split, reduction)
        packed = [
            logits
            for _, logits in model.clip_outputs(
                recordings, ('logits',), lambda _, outputs: outputs['logits'], reduction=reduction
            )
            if logits is not None
        ]
        alone = np.stack([model.waveform_logits(waveform, reduction) for waveform in waveforms])
        assert np.abs(np.stack(packed) - alone).max() <= 1e-5 * np.abs(alone).max()
        assert (
            np.abs(
                alone[1:]
                - np.stack([model.waveform_logits(waveform) for waveform in waveforms[1:]])
            ).max()
            > 1e-3
        )


@pytest.fixture
def workdir(tmp_path):
    untrained.workdir(tmp_path / 'W')
    return Workdir(tmp_path / 'W')


@pytest.fixture
def model(workdir) -> Predictor:
    return elastic_ast_jax.load(workdir.path)


def budgets(
    *scores: tuple[TokenReduction, float], checkpoint: str = 'step 0', step: int = 0
) -> TokenBudgets:
    return TokenBudgets(
        checkpoint,
        step,
        'accuracy',
        tuple(Measurement(reduction, score, 0.4, True, 1.0) for reduction, score in scores),
    )


def test_a_budget_is_looked_up_in_the_workdir(workdir, model):
    first, second = TokenReduction(6, 2.0, 'drop'), TokenReduction(8, 1.4)
    workdir.set_budgets(budgets((first, 0.5), (second, 0.75)))
    rate = model.config.frontend.sample_rate
    waveform = noise(0, rate * 9 // 10)
    for tokens, reduction in ((7, first), (100, second)):
        assert model.budget(tokens).reduction == reduction
        logits = model.waveform_logits(waveform, reduction).astype(np.float64)
        expected = dict(zip(model.labels, model.probabilities(logits), strict=True))
        (result,) = model.predict([waveform], top_k=3, budget_tokens=tokens)
        (timeline,) = model.timeline([waveform], top_k=3, budget_tokens=tokens)
        assert {
            entry['label']: entry['probability'] for entry in result['predictions']
        } == pytest.approx(expected, abs=1e-6)
        assert timeline['predictions'] == result['predictions']
    with pytest.raises(BudgetError, match='give one of 6, 8, or more'):
        model.predict([waveform], budget_tokens=5)


def test_frames_that_are_further_apart_make_longer_windows(workdir, model):
    workdir.set_budgets(budgets((TokenReduction(8, 2.0), 0.5)))
    sound = noise(0, 3 * model.config.frontend.sample_rate)
    (whole,), (limited,) = model.predict([sound]), model.predict([sound], budget_tokens=8)
    assert whole['windows'] > limited['windows'] > 1


def test_missing_budgets_are_an_error(workdir, model):
    with pytest.raises(
        WorkdirError,
        match=f'no token budget was measured .* evaluate --workdir={workdir.path} --sweep=budget',
    ):
        model.predict([noise(0, 8000)], budget_tokens=8)
    with pytest.raises(BudgetError, match='not loaded from one'):
        untrained.predictor().budget(8)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"bud', 'cannot be read'),
        ('[]', 'must hold a JSON object'),
        ('{}', 'budgets must be a list'),
    ],
)
def test_budgets_that_are_damaged(workdir, model, text, message):
    (workdir.path / 'budgets.json').write_text(text)
    with pytest.raises(
        WorkdirError,
        match=f'^{workdir.path}/budgets.json: {message}.*measure again with elastic-ast evaluate',
    ):
        model.budget(8)
    model.predict([noise(0, 8000)])  # who asks for none needs none


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'tokens': 1}, 'a budget of 1 tokens is less than one column of patches: give at least 2'),
        ({'tokens': 10**30}, 'more than any clip has'),
        ({'ratio': 101}, 'the ratio 101 of the frame shift'),
        ({'ratio': 1e308}, 'at most 100'),
        ({'ratio': 10**400}, 'ratio=1000'),
    ],
)
def test_budgets_that_no_model_can_keep(workdir, model, changes, message):
    """A foreign file makes no clip without tokens, no endless frame shift and no overflow."""
    values = budgets((TokenReduction(8), 0.5)).to_json()
    values['budgets'][0] |= changes
    (workdir.path / 'budgets.json').write_text(json.dumps(values))
    with pytest.raises(
        WorkdirError,
        match=f'^{workdir.path}/budgets.json: .*{message}.*measure again with elastic-ast evaluate',
    ):
        model.predict([noise(0, 8000)], budget_tokens=8)


def test_budgets_of_other_parameters_warn_once(workdir, model):
    for checkpoint, step, message in (
        ('step 3', 3, 'of step 3, and these are of step 0'),
        ('step 0', 7, 'of step 7, and'),
    ):
        workdir.set_budgets(budgets((TokenReduction(8), 0.5), checkpoint=checkpoint, step=step))
        again = elastic_ast_jax.load(workdir.path)
        with pytest.warns(
            BudgetWarning,
            match=f'were measured with parameters {message}.*measure again with elastic-ast',
        ) as warned:
            for tokens in (8, 9):
                again.predict([noise(0, 8000)], budget_tokens=tokens)
        assert len(warned) == 1
    workdir.set_budgets(budgets((TokenReduction(8), 0.5)))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.predict([noise(0, 8000)], budget_tokens=8)


def test_budgets_are_read_once(workdir, model):
    workdir.set_budgets(budgets((TokenReduction(8), 0.5)))
    assert model.budget(8).reduction.tokens == 8
    (workdir.path / 'budgets.json').unlink()
    assert model.budget(9).reduction.tokens == 8


def test_replaced_budgets_are_reported(workdir):
    assert workdir.set_budgets(budgets((TokenReduction(8), 0.5))) == (
        workdir.path / 'budgets.json',
        False,
    )
    assert workdir.set_budgets(budgets((TokenReduction(9), 0.5))) == (
        workdir.path / 'budgets.json',
        True,
    )


# Latency


class Slow(Predictor):
    """Takes its time with every clip, and remembers which they were."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = []

    def waveform_logits(self, waveform, reduction=None):
        self.seen.append((len(waveform), reduction))
        time.sleep(0.02)
        return super().waveform_logits(waveform, reduction)


@pytest.fixture
def slow(workdir):
    return Slow(load_model(workdir.path))


TIMED = [TokenReduction(4), TokenReduction(4, method='drop'), TokenReduction(8, 2.0)]


def test_latency_is_that_of_one_clip_if_there_is_no_time(slow):
    waveforms = [noise(i, 4000 + i) for i in range(12)]
    latencies_ms, timed = latency.measure_latencies(slow, waveforms, TIMED, max_seconds=0.0)
    assert (
        timed == 1
        and len(latencies_ms) == 3
        and all(20 < latency_ms < 10_000 for latency_ms in latencies_ms)
    )
    # Two programs are compiled, for rows of 4 and of 8 tokens; then each reduction takes its turn.
    assert len(slow.seen) == 2 + 3 and slow.seen[2:] == [(4000, reduction) for reduction in TIMED]


def test_as_many_clips_are_timed_as_there_is_time_for(slow):
    """A turn of three takes at least 60 ms, so in 0.4 s there are at most six."""
    waveforms = [noise(i, 4000 + i) for i in range(12)]
    _, timed = latency.measure_latencies(slow, waveforms, TIMED, max_seconds=0.4)
    assert 1 <= timed <= 6 and 2 + 3 * timed <= len(slow.seen) <= 2 + 3 * 6


def test_clips_are_timed_up_to_ten_times(slow):
    waveforms = [noise(i, 4000 + i) for i in range(2)]
    _, timed = latency.measure_latencies(slow, waveforms, TIMED[:1], max_seconds=600.0)
    assert timed == 2 and [length for length, _ in slow.seen] == [4000, *[4000, 4001] * 10]
    assert latency.measure_latencies(slow, [], TIMED[:1]) == (
        [pytest.approx(math.nan, nan_ok=True)],
        0,
    )


@pytest.mark.parametrize(
    ('count', 'most', 'indices'),
    [
        (12, 1, [0]),
        (12, 2, [0, 11]),
        (12, 4, [0, 4, 7, 11]),
        (3, 20, [0, 1, 2]),
        (1, 5, [0]),
    ],
)
def test_clips_are_from_all_over_the_split(count, most, indices):
    assert latency.spaced_indices(count, most) == indices

"""Token budgets: their reductions, and the best of the measured ones."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.data.epoch_plan import PlanError, Planner
from elastic_ast_jax.data.sampling import sample_epoch
from elastic_ast_jax.packing import token_budget
from elastic_ast_jax.packing.token_budget import (
    BudgetError,
    Measurement,
    TokenBudgets,
    TokenReduction,
)
from tests.data.specs import sampling_spec

KALDI = FrontendSpec(sample_rate=8000, mel_bins=32, patch_frames=4, max_frames=100)
LIBROSA = FrontendSpec(
    kind='librosa',
    sample_rate=8000,
    window_ms=10.0,
    fft=256,
    mel_bins=32,
    patch_frames=4,
    min_frames=24,
    max_frames=100,
    partial='edge',
)
FRONTENDS = st.one_of(
    st.builds(
        dataclasses.replace,
        st.just(KALDI),
        partial=st.sampled_from(['pad', 'zero', 'floor', 'edge']),
        min_frames=st.sampled_from([0, 24]),
    ),
    st.just(LIBROSA),
)
REDUCTIONS = st.builds(
    TokenReduction,
    st.integers(2, 60),
    st.sampled_from([1.0, 1.4, 2.0, 4.0]),
    st.sampled_from(['crop', 'drop']),
)


def drawn(
    samples: list[int], frontend: FrontendSpec, reduction: TokenReduction | None, ratio: float = 1.0
):
    spec = sampling_spec(
        ratios=(reduction.ratio if reduction else ratio,), too_long='crop', reduction=reduction
    )
    return sample_epoch(np.array(samples), frontend, spec, 0, 0)


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=20), FRONTENDS, REDUCTIONS)
def test_clips_keep_at_most_the_budget_and_all_tokens_if_they_fit(samples, frontend, reduction):
    reduced, whole = (
        drawn(samples, frontend, reduction),
        drawn(samples, frontend, None, reduction.ratio),
    )
    assert (reduced.tokens <= reduction.tokens).all()
    fits = whole.tokens <= reduction.tokens
    for field in dataclasses.fields(reduced):
        if field.name != 'cropped':
            np.testing.assert_array_equal(
                getattr(reduced, field.name)[fits], getattr(whole, field.name)[fits]
            )
    # All of the budget is spent, by 'crop' up to whole columns.
    most = (
        reduction.tokens
        if reduction.method == 'drop'
        else reduction.tokens // frontend.mel_patches * frontend.mel_patches
    )
    assert (reduced.tokens[~fits] == most).all()
    for columns, expected in zip(reduced.time_patches, reduced.tokens, strict=True):
        selected = reduction.select_tokens(int(columns), frontend)
        count = columns * frontend.mel_patches if selected is None else len(selected)
        assert count == expected


@given(st.integers(1, 60), FRONTENDS, REDUCTIONS)
def test_selected_tokens_are_the_first_columns_or_nested_random_ones(columns, frontend, reduction):
    selected = reduction.select_tokens(columns, frontend)
    tokens = columns * frontend.mel_patches
    if tokens <= reduction.tokens:
        assert selected is None
        return
    assert (np.diff(selected) > 0).all() and selected[0] >= 0 and selected[-1] < tokens
    np.testing.assert_array_equal(selected, reduction.select_tokens(columns, frontend))
    if reduction.method == 'crop':  # the first columns, each whole
        kept_columns = reduction.tokens // frontend.mel_patches
        grid = np.zeros(tokens, bool)
        grid[selected] = True
        assert (
            grid.reshape(-1, columns)[:, :kept_columns].all()
            and not grid.reshape(-1, columns)[:, kept_columns:].any()
        )
    elif reduction.tokens > 2:
        fewer = dataclasses.replace(reduction, tokens=reduction.tokens - 1).select_tokens(
            columns, frontend
        )
        assert set(fewer) < set(selected)


def test_random_tokens_are_from_all_over_the_clip():
    counts = np.zeros(4)
    for columns in range(40, 240, 2):
        selected = TokenReduction(20, method='drop').select_tokens(columns, KALDI)
        assert selected is not None
        counts += np.bincount(selected % columns * 4 // columns, minlength=4)
    assert np.abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)  # standard deviations


def test_a_cropped_clip_is_read_no_further_than_it_is_used():
    reduced = drawn([8000], KALDI, TokenReduction(20))
    assert reduced.frames == 40 and reduced.samples == KALDI.samples_for(40, 80)
    assert drawn([8000], KALDI, TokenReduction(20, method='drop')).samples > 7900


def test_a_row_need_hold_no_more_than_the_budget():
    def planner(reduction):
        return Planner(
            ['a.wav'], np.array([8000]), KALDI, sampling_spec(reduction=reduction), 0, 24, 4
        )

    with pytest.raises(PlanError, match=r'packing\.tokens=24'):
        planner(None)
    for method in ('crop', 'drop'):
        plan = planner(TokenReduction(24, method=method)).epoch(0)
        assert plan.clips.tokens == [24]


def test_training_samples_have_no_reduction():
    """Check that a plan's fingerprint, which stored runs have, has no field for the reduction."""
    assert 'reduction' not in sampling_spec().hash_values()
    specs: list[dict[str, Any]] = [
        {'token_dropout': 0.1},
        {'ratios': (2.0,)},
        {'ratios': (1.0, 1.5)},
    ]
    for spec in specs:
        with pytest.raises(
            ValueError, match='goes with its own ratio alone, and without token_dropout'
        ):
            sampling_spec(reduction=TokenReduction(8), **spec)


@pytest.mark.parametrize('values', [(0,), (8, 0.5), (8, math.inf), (8, math.nan)])
def test_invalid_reductions_are_refused(values):
    with pytest.raises(ValueError, match='tokens must be positive, ratio at least 1 and finite'):
        TokenReduction(*values)


def test_a_budget_holds_a_column():
    token_budget.check_tokens(2, KALDI)
    with pytest.raises(
        BudgetError,
        match=r'a budget of 1 tokens is less than .*: give at least 2, as frontend\.mel_bins=32',
    ):
        token_budget.check_tokens(1, KALDI)
    token_budget.check_tokens(2**31 - 1, KALDI)
    with pytest.raises(BudgetError, match='more than any clip has: give at most 2147483647'):
        token_budget.check_tokens(2**31, KALDI)
    with pytest.raises(BudgetError, match=r'model\.kind=ast'):
        token_budget.check_model('ast')


def test_a_ratio_makes_a_frame_shift():
    token_budget.check_reduction(TokenReduction(2, 100.0), KALDI)
    half = dataclasses.replace(KALDI, shift_ms=0.5)
    token_budget.check_reduction(TokenReduction(2, 2.0), half)
    for reduction, frontend in (
        (TokenReduction(2, 101.0), KALDI),
        (TokenReduction(2, 1e308), KALDI),
        (TokenReduction(2, 1.5), half),
    ):
        with pytest.raises(
            BudgetError,
            match=r'at most 100, and frontend\.shift_ms=.* times it must be at least a sample',
        ):
            token_budget.check_reduction(reduction, frontend)
    with pytest.raises(BudgetError, match='less than one column'):
        token_budget.check_reduction(TokenReduction(1), KALDI)


def test_a_reduction_is_described_in_words():
    assert (
        TokenReduction(8, 1.4, 'drop').describe(FrontendSpec())
        == 'frame shift 14 ms, random tokens'
    )
    assert (
        TokenReduction(8).describe(FrontendSpec(shift_ms=12.5))
        == 'frame shift 12.5 ms, the first frames'
    )
    assert (
        TokenReduction(8).describe(FrontendSpec(sample_rate=11025))
        == 'frame shift 10 ms, the first frames'
    )  # 110 samples


# Measurements, whose order by the held-out score differs from that by the selection score.
MEASURED = (
    Measurement(TokenReduction(8, 2.0, 'drop'), 0.5, 0.7, True, 3.0),
    Measurement(TokenReduction(16, 1.4), 0.9, 0.6, True, 2.0),
    Measurement(TokenReduction(32), 0.8, 0.8, True, 4.0),
    Measurement(TokenReduction(64), 0.9, 0.9, True, 6.0),
    Measurement(TokenReduction(128), math.nan, math.nan, False, 1.0),
)
BUDGETS = TokenBudgets('step 30, moving average', 30, 'accuracy', MEASURED, ('data.eval=y.jsonl',))


@pytest.mark.parametrize(
    ('tokens', 'best'), [(8, 8), (15, 8), (16, 16), (40, 16), (64, 16), (10**9, 16)]
)
def test_the_best_is_never_worse_with_more_tokens_and_of_equals_the_faster(tokens, best):
    assert BUDGETS.best(tokens).reduction.tokens == best


def test_a_budget_that_is_less_than_any():
    with pytest.raises(
        BudgetError,
        match='7 tokens is less than any that was measured: give one of 8, 16, 32, 64, 128',
    ):
        BUDGETS.best(7)


def test_the_best_of_each_budget_that_is_better_than_smaller_ones():
    many = [
        Measurement(TokenReduction(8), math.nan, 0.9, True, 1.0),
        Measurement(TokenReduction(8, 1.4), 0.5, 0.8, True, 3.0),
        Measurement(TokenReduction(8, 2.0), 0.5, 0.3, True, 2.0),
        Measurement(TokenReduction(8, 2.0, 'drop'), 0.4, 1.0, True, 1.0),
    ]
    best = token_budget.best_per_budget([MEASURED[1], *many, MEASURED[4]])
    assert best == (many[2], MEASURED[1])
    assert token_budget.best_per_budget([*MEASURED[2:], many[0]]) == (
        many[0],
        MEASURED[2],
        MEASURED[3],
    )


def test_earlier_budgets_are_merged_if_all_else_is_equal():
    again = Measurement(TokenReduction(16, 4.0), 0.1, 0.1, True, 1.0)
    new = dataclasses.replace(
        BUDGETS, measurements=(Measurement(TokenReduction(4), 0.2, 0.2, True, 1.0), again)
    )
    merged = new.merged_with(BUDGETS)
    assert merged.measurements == (new.measurements[0], MEASURED[0], again, *MEASURED[2:])
    changes = (
        {'checkpoint': 'step 30'},
        {'step': 31},
        {'metric': 'mean_average_precision'},
        {'overrides': ('data.eval=x',)},
    )
    for change in changes:
        assert new.merged_with(dataclasses.replace(BUDGETS, **change)) == new


def test_parameters_that_differ_from_the_measured_ones_are_described():
    assert BUDGETS.parameter_mismatch('step 30, moving average', 30) is None
    assert (
        BUDGETS.parameter_mismatch('step 30', 30)
        == 'parameters of step 30, moving average, and these are of step 30'
    )
    assert (
        BUDGETS.parameter_mismatch('step 30, moving average', 31)
        == 'parameters of step 30, and these are of step 31'
    )


def test_stored_budgets_are_read_back():
    text = json.dumps(BUDGETS.to_json(), allow_nan=False)
    again = token_budget.from_json(json.loads(text))
    assert math.isnan(again.measurements[-1].heldout_score) and math.isnan(
        again.measurements[-1].selection_score
    )
    assert dataclasses.replace(again, measurements=again.measurements[:-1]) == dataclasses.replace(
        BUDGETS, measurements=MEASURED[:-1]
    )


def test_budgets_with_the_earlier_names_are_read():
    values = json.loads(json.dumps(BUDGETS.to_json()))
    earlier = {'method': 'how', 'selection_score': 'choice_score', 'heldout_score': 'score'}
    for entry in values['budgets']:
        entry['method'] = {'crop': 'cut', 'drop': 'drop'}[entry['method']]
        for new, old in earlier.items():
            entry[old] = entry.pop(new)
    assert values['budgets'][0]['how'] == 'drop' and values['budgets'][1]['how'] == 'cut'
    assert token_budget.from_json(values).measurements[:-1] == MEASURED[:-1]


@pytest.mark.parametrize(
    ('entry', 'key', 'value', 'message'),
    [
        (None, 'budgets', 3, 'budgets must be a list'),
        (None, 'budgets', [], 'budgets must be a list'),
        (None, 'budgets', [3], r'budgets\[0\] must be an object'),
        (None, 'step', '30', "step='30' must be a whole number"),
        (None, 'overrides', 'data.eval=x', "overrides='data.eval=x' must be a list of texts"),
        (None, 'overrides', [3], 'overrides='),
        (None, 'step', True, 'step=True'),
        (None, 'checkpoint', None, 'checkpoint=None must be text'),
        (None, 'metric', 3, 'metric=3'),
        (1, 'tokens', 0, r'budgets\[1\]: tokens=0 must be a positive'),
        (1, 'tokens', 16.0, 'tokens=16.0'),
        (1, 'tokens', True, 'tokens=True'),
        (1, 'tokens', 8, r'must ascend: \[8, 8, 32'),
        (1, 'tokens', 999, 'must ascend'),
        (1, 'ratio', 0.5, 'ratio=0.5 must be a number from 1'),
        (1, 'ratio', '2', "ratio='2'"),
        (1, 'ratio', math.inf, 'ratio=inf'),
        (1, 'method', 'half', "method='half' must be 'crop' or 'drop'"),
        (1, 'method', ['crop'], 'method='),
        (1, 'heldout_score', 'good', "heldout_score='good'"),
        (1, 'heldout_score', math.nan, 'heldout_score=nan'),
        (1, 'heldout_score', 10**400, 'heldout_score=1000'),
        (1, 'selection_score', True, 'selection_score=True'),
        (1, 'latency_ms', None, 'latency_ms=None'),
        (1, 'latency_ms', -1, 'latency_ms=-1'),
        (1, 'ratio', 10**400, 'ratio=1000'),
        (1, 'unseen', 1, 'unseen=1 must be true or false'),
    ],
)
def test_invalid_entries_are_named(entry, key, value, message):
    values = json.loads(json.dumps(BUDGETS.to_json()))
    (values if entry is None else values['budgets'][entry])[key] = value
    with pytest.raises(ValueError, match=message):
        token_budget.from_json(values)
    if entry is not None:
        del values['budgets'][entry][key]
        with pytest.raises(ValueError, match=rf'budgets\[1\]: {key} is missing, and must be'):
            token_budget.from_json(values)

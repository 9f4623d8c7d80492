"""Test when a run ends whose evaluations no longer improve, and what it remembers."""

import json
import math

import pytest

from elastic_ast_jax.checkpointing.run_length import run_steps
from elastic_ast_jax.checkpointing.workdir import PlanRecord, Workdir, WorkdirError
from elastic_ast_jax.config import loading
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.training.early_stopping import EarlyStopping

STEPS = 100


def config_with(patience: int) -> Config:
    data = {'source': 'synthetic', 'validation_share': 0.2}
    return loading.from_dict({'data': data, 'train': {'patience': patience}})


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path)


def end(workdir, patience: int, scores, first_step: int = 0) -> int | None:
    """Return the step that a run ends early after; an evaluation follows every tenth step."""
    stopping = EarlyStopping(workdir, config_with(patience), STEPS, first_step)
    for number, score in enumerate(scores, first_step // 10 + 1):
        stopping.add(10 * number, score)
        if stopping.ends_after(10 * number):
            return 10 * number
    return None


@pytest.mark.parametrize(
    ('patience', 'scores', 'expected'),
    [
        (2, [0.1, 0.2, 0.3, 0.4, 0.5], None),
        (2, [0.1, 0.5, 0.4, 0.6, 0.2, 0.1, 0.7], 60),
        (1, [0.1, 0.1], 20),  # an equal score is no improvement
        (2, [math.nan, math.nan, 0.3], 20),  # nor is an undefined one
        (3, [0.5, math.nan, math.nan, math.nan], 40),
        (0, [0.5] * 9, None),
        (1, [0.1 * n for n in range(9)] + [0.0], None),  # the last step ends the run anyway
    ],
)
def test_a_run_ends_after_evaluations_without_improvement(workdir, patience, scores, expected):
    assert end(workdir, patience, scores) == expected


def test_a_run_that_resumes_ends_after_the_same_step(tmp_path):
    scores = [0.1, 0.5, math.nan, 0.5, 0.4, 0.9]
    for kept in range(5):
        # The scores of steps that are repeated are stored, and replaced.
        workdir = Workdir(tmp_path / str(kept))
        workdir.path.mkdir()
        assert end(workdir, 3, [*scores[: kept + 1], 0.0][:5]) in (None, 50)
        assert end(workdir, 3, scores[kept:], first_step=10 * kept) == 50
        assert workdir.score_history().scores[-1] == (50, 0.4)


def test_without_patience_nothing_is_stored(workdir):
    end(workdir, 0, [0.1, 0.2])
    assert not list(workdir.path.iterdir())
    assert workdir.score_history().scores == ()


def test_the_length_of_a_run_is_described(workdir):
    end(workdir, 2, [0.5, 0.4, 0.3])
    stopping = EarlyStopping(workdir, config_with(2), STEPS, 30)
    assert stopping.describe_length(30, 10) == (
        '30 of 100 steps: 2 evaluations without a better accuracy (train.patience=2);'
        ' --checkpoint=best is of step 10'
    )
    assert stopping.describe_length(100, 10) == '100 steps'


def test_the_steps_of_a_run_count_until_its_early_end(workdir):
    plan = PlanRecord('f', (80, 80))
    assert run_steps(workdir, config_with(2), plan) == 20
    end(workdir, 2, [0.5, 0.4, 0.3])
    assert run_steps(workdir, config_with(2), plan) == 30
    assert run_steps(workdir, config_with(3), plan) == 20
    assert run_steps(workdir, config_with(0), plan) == 20


def test_a_run_that_gets_patience_has_the_scores_of_its_checkpoints(workdir):
    scores = {10: 0.5, 30: 0.4, 40: math.nan, 50: 0.9}
    stopping = EarlyStopping(workdir, config_with(2), STEPS, 40, scores)
    assert stopping.ends_after(40)
    assert [step for step, _ in workdir.score_history().scores] == [10, 30, 40]
    assert run_steps(workdir, config_with(2), PlanRecord('f', (80, 80))) == 40
    stopping = EarlyStopping(workdir, config_with(3), STEPS, 40, scores | {10: 0.1})
    assert not stopping.ends_after(40)
    assert stopping.history.scores[0] == (10, 0.5)  # a stored score stays
    EarlyStopping(Workdir(workdir.path / 'other'), config_with(0), STEPS, 40, scores)
    assert not (workdir.path / 'other').exists()


@pytest.mark.parametrize('scores', [5, [[10]], [[10, 0.5], [10, 0.6]], [[10, 'a']], [['a', 0.5]]])
def test_damaged_scores_are_refused(workdir, scores):
    (workdir.path / 'scores.json').write_text(json.dumps({'scores': scores}))
    with pytest.raises(WorkdirError, match=r'scores\.json: the entry scores is damaged'):
        EarlyStopping(workdir, config_with(1), STEPS, 10)


def test_patience_needs_a_validation_split():
    with pytest.raises(loading.ConfigError, match=r'patience=3 needs clips .*validation_share'):
        loading.from_dict({'data': {'source': 'synthetic'}, 'train': {'patience': 3}})
    with pytest.raises(loading.ConfigError, match=r'train\.patience=-1 must be at least 0'):
        loading.from_dict({'data': {'source': 'synthetic'}, 'train': {'patience': -1}})

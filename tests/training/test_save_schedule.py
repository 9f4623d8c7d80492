"""Test the steps after which a run logs, saves and evaluates."""

import pytest

from elastic_ast_jax.training.save_schedule import SaveSchedule

EPOCH_ENDS = (7, 14, 21)


def steps(due):
    return [step for step in range(EPOCH_ENDS[-1] + 1) if due(step)]


@pytest.mark.parametrize(
    ('save_every', 'expected'),
    [(0, [7, 14, 21]), (5, [0, 5, 7, 10, 14, 15, 20, 21]), (100, [0, 7, 14, 21])],
)
def test_checkpoints_follow_epochs_and_every_few_steps(save_every, expected):
    assert steps(SaveSchedule(EPOCH_ENDS, 1, save_every, 1).save_due) == expected


def test_a_line_is_logged_every_few_steps_and_before_each_checkpoint():
    events = SaveSchedule(EPOCH_ENDS, log_every=4, save_every=0, eval_every=1)
    assert steps(events.log_due) == [0, 4, 7, 8, 12, 14, 16, 20, 21]


@pytest.mark.parametrize(
    ('eval_every', 'expected'), [(1, [7, 14, 21]), (2, [14, 21]), (3, [21]), (5, [21])]
)
def test_evaluations_follow_every_few_epochs_and_the_last_step(eval_every, expected):
    assert steps(SaveSchedule(EPOCH_ENDS, 1, 3, eval_every).evaluation_due) == expected

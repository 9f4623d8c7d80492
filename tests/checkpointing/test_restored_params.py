"""Which checkpoints are selected, and why none is."""

from pathlib import Path

import pytest

from elastic_ast_jax.checkpointing.restored_params import CheckpointError, select_steps


def test_the_best_is_the_one_with_a_score():
    assert select_steps(Path('W'), 'best', [1, 2], 1, evaluated=True) == [1]


@pytest.mark.parametrize(
    'evaluated, reason',
    [(False, 'no checkpoint has been evaluated'), (True, 'no evaluation has a score')],
)
def test_without_a_score_the_reason_is_named(evaluated, reason):
    with pytest.raises(CheckpointError, match=f'W: {reason}.*use latest'):
        select_steps(Path('W'), 'best', [1, 2], None, evaluated=evaluated)

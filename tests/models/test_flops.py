"""Model FLOPs: the formula, and what a compiler counts for the same clips."""

from typing import Any

import jax
import numpy as np
import pytest

from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.models import flops
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.packing.batch import BatchShape


def network(**more):
    return ElasticAST(Size(8, 2, 2), 3, (2, 5), **more)


def test_the_formula_by_hand():
    """Width 8, two blocks, patches of 6, three classes; clips of 1 and 10 tokens."""
    dense = 2 * 6 * 8 + 2 * 24 * 64
    short = dense + 2 * 4 * 8 + (4 * 64 + 4 * 8) + 2 * 64 + 2 * 8 * 3
    long = 10 * dense + 100 * 2 * 4 * 8 + 10 * (4 * 64 + 4 * 8) + 2 * 64 + 2 * 8 * 3
    assert flops.forward_flops(np.array([1, 10]), network(), 6).tolist() == [short, long]
    mean = flops.forward_flops(np.array([10]), network(pool='mean'), 6)
    assert mean.tolist() == [10 * dense + 100 * 2 * 4 * 8 + 10 * 8 + 2 * 8 * 3]


def test_the_fixed_length_baseline_by_hand():
    """2 x 3 overlapping patches of 2 x 3 values and two tokens more, however long a clip is."""
    fixed = AST(Size(8, 2, 2), 3, mels=4, frames=7, patch=(2, 3), stride=(2, 2))
    short = 6 * 2 * 6 * 8 + 8 * 2 * 24 * 64 + 64 * 2 * 4 * 8 + 2 * 8 + 2 * 8 * 3
    assert flops.forward_flops(np.array([6, 1]), fixed, 6).tolist() == [short, short]


def test_long_clips_of_large_models_do_not_overflow():
    large = ElasticAST(Size(1024, 24, 16), 527, (8, 1 << 17))
    (count,) = flops.forward_flops(np.array([1 << 20], np.int32), large, 256)
    assert count > 1e17


def test_tokens_are_counted_clip_by_clip():
    ids = np.array(
        [[1, 1, 2, 3, 3, 3, 0, 0], [0] * 8, [1, 1, 1, 1, 3, 3, 0, 0]], np.int32
    )  # slot 2 of the last is empty
    assert flops.tokens_per_clip(ids).tolist() == [2, 1, 3, 4, 2]
    assert flops.tokens_per_clip(np.zeros((2, 5), np.int32)).tolist() == []


def test_a_training_step_is_three_forward_passes_of_its_clips_wherever_they_sit():
    arguments = network(), 6
    expected = 3 * flops.forward_flops(np.array([2, 1, 3]), *arguments).sum()
    for ids in ([[1, 1, 2, 3, 3, 3, 0]], [[1, 1, 2, 0], [1, 1, 1, 0], [0] * 4]):
        assert (
            flops.train_step_flops(flops.tokens_per_clip(np.array(ids, np.int32)), *arguments)
            == expected
        )
    assert (
        flops.train_step_flops(flops.tokens_per_clip(np.zeros((2, 5), np.int32)), *arguments) == 0
    )


@pytest.mark.parametrize('pool', ['attention', 'mean'])
def test_a_compiler_counts_about_the_same(pool):
    """Clips that fill their rows, so that nothing is computed for nothing.

    The rest is norms, softmax and GELU.
    """
    size, shape = (
        Size(768, 1, 4),
        BatchShape(rows=2, tokens=256, slots=1, patch_size=256, classes=10),
    )
    network = ElasticAST(size, shape.classes, (8, 32), interface.reference, pool=pool)
    batch = shape.empty()
    batch.segment_ids[:] = 1
    params = jax.eval_shape(network.init, jax.random.key(0), batch)
    forward = jax.jit(network.apply).lower(params, batch)

    def total(params, batch):
        logits: Any = network.apply(params, batch)
        return logits.sum()

    gradient = jax.jit(jax.grad(total)).lower(params, batch)
    analyses: list[Any] = [step.compile().cost_analysis() for step in (forward, gradient)]
    counted, counted_gradient = (analysis['flops'] for analysis in analyses)
    kind = network, shape.patch_size
    assert counted == pytest.approx(
        flops.forward_flops(flops.tokens_per_clip(batch.segment_ids), *kind).sum(), rel=0.03
    )
    assert counted_gradient == pytest.approx(
        flops.train_step_flops(flops.tokens_per_clip(batch.segment_ids), *kind), rel=0.02
    )

"""The suite reports the fault of each of these implementations, which is wrong in one way."""

import jax
import jax.numpy as jnp
import pytest

from elastic_ast_jax.models.attention import conformance, interface


def all_clips_of_a_row(q, k, v, segment_ids):
    return interface.reference(q, k, v, (segment_ids > 0).astype(segment_ids.dtype))


def padding_attends(q, k, v, segment_ids):
    """Let padding attend to padding, as a kernel with segment ids does by default."""
    return interface.reference(q, k, v, segment_ids + 1)


def soft_mask(q, k, v, segment_ids):
    """Lower logits between clips, by an amount that suffices for small logits."""
    logits = jnp.einsum('rqhc,rkhc->rhqk', q, k)
    same = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
    weights = jax.nn.softmax(jnp.where(same, logits, logits - 30.0), axis=-1)
    out = jnp.einsum('rhqk,rkhc->rqhc', weights, v)
    return jnp.where((segment_ids > 0)[:, :, None, None], out, 0.0)


def joined_neighbors(q, k, v, segment_ids):
    """Compute a block too many: join the clips of each pair of tokens."""
    paired = jnp.repeat(segment_ids[:, ::2], 2, axis=1)[:, : segment_ids.shape[1]]
    return interface.reference(q, k, v, jnp.where(segment_ids > 0, paired, 0))


def scaled(q, k, v, segment_ids):
    return interface.reference(q / q.shape[-1] ** 0.5, k, v, segment_ids)


def values_keep_their_gradient(q, k, v, segment_ids):
    return interface.reference(q, k, jax.lax.stop_gradient(v), segment_ids)


@jax.custom_vjp
def leaks_backwards(q, k, v, segment_ids):
    return interface.reference(q, k, v, segment_ids)


def _forward(*inputs):
    return interface.reference(*inputs), inputs


def _backward(inputs, gradient):
    q, k, v, segment_ids = inputs
    _, pullback = jax.vjp(lambda q, k, v: all_clips_of_a_row(q, k, v, segment_ids), q, k, v)
    return *pullback(gradient), None


leaks_backwards.defvjp(_forward, _backward)


def not_finite(q, k, v, segment_ids):
    """Return 0/0 in padding, the softmax of an empty set."""
    out = interface.reference(q, k, v, segment_ids)
    return jnp.where((segment_ids > 0)[:, :, None, None], out, jnp.nan)


@pytest.mark.parametrize(
    'attend, message',
    [
        (all_clips_of_a_row, 'moves by'),
        (padding_attends, 'not 0 in padding'),
        (soft_mask, 'when other clips change'),
        (joined_neighbors, 'of the gradient of the clip at row 0, tokens 0 to 12'),
        (scaled, 'off the softmax of each clip alone'),
        (values_keep_their_gradient, 'gets no gradient of its own output through v'),
        (leaks_backwards, 'of the gradient of the clip at row 0, tokens 0 to 12, through k'),
        (not_finite, 'the output is not finite'),
    ],
)
def test_a_wrong_implementation_is_reported(attend, message):
    problems = conformance.check(attend, width=16, tokens=64)
    assert any(message in problem for problem in problems), problems


def test_a_leak_is_found_in_bfloat16_too():
    assert any(
        'moves by' in problem
        for problem in conformance.check(joined_neighbors, width=16, dtype=jnp.bfloat16, tokens=64)
    )


@pytest.mark.parametrize('tokens', [48, 64, 101])
def test_the_reference_has_no_problems(tokens):
    assert conformance.check(interface.reference, heads=1, width=16, tokens=tokens) == []

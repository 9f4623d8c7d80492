"""Selection of precision and attention for a platform."""

import jax
import jax.numpy as jnp
import pytest

from elastic_ast_jax.models.attention import interface, selection

# These tests run on a CPU.


def test_precision_follows_the_platform_by_default():
    assert selection.compute_dtype('float32') == jnp.float32
    assert selection.compute_dtype('bfloat16') == jnp.bfloat16
    assert selection.compute_dtype('auto') == (
        jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16
    )


def test_attention_follows_the_platform_by_default():
    assert selection.select_attention('reference') is interface.reference
    assert selection.select_attention('blocked') is not interface.reference
    if jax.default_backend() == 'cpu':
        assert selection.select_attention('auto') is not interface.reference
    assert selection.select_attention('auto', 'ast') is interface.reference  # its rows are full


def test_the_selection_gives_its_reason():
    attend, reason = selection.select_attention_with_reason('reference')
    assert (
        attend is interface.reference
        and reason == 'attention: reference, as model.attention=reference says'
    )
    assert selection.select_attention_with_reason('auto', 'ast')[1].startswith(
        'attention: reference, for rows of'
    )
    if jax.default_backend() == 'cpu':
        assert (
            selection.select_attention_with_reason('auto')[1]
            == 'attention: blocked, the fastest that passes its checks on cpu'
        )


@pytest.mark.skipif(
    jax.default_backend() != 'cpu', reason='about kernels that do not run on a processor'
)
@pytest.mark.parametrize('name', ['splash', 'pallas', 'cudnn'])
def test_a_kernel_that_does_not_run_is_an_error_only_if_it_is_required(name):
    with pytest.raises(
        selection.AttentionError,
        match=f"model.attention='{name}' does not work on this cpu in float32: .+auto",
    ):
        selection.select_attention(name)
    attend, reason = selection.select_attention_with_reason(name, required=False)
    assert attend is not interface.reference
    assert reason.startswith('attention: blocked') and f'{name} is refused: ' in reason


@pytest.mark.skipif(
    jax.default_backend() != 'cpu', reason='about kernels that do not run on a processor'
)
def test_auto_skips_kernels_that_fail_and_gives_their_problems(monkeypatch):
    monkeypatch.setattr(selection, '_BY_PLATFORM', {'cpu': ('splash', 'pallas', 'reference')})
    attend, reason = selection.select_attention_with_reason('auto')
    assert attend is interface.reference
    assert reason.startswith('attention: reference') and reason.index(
        'splash is refused'
    ) < reason.index('pallas is refused')

"""Choices that depend on the platform: the type to compute in, and the attention."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from elastic_ast_jax.models.attention import conformance, registry
from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.utils.errors import UserError

# Made of XLA's operations alone. Training checks them too; a model that is only opened starts a
# second sooner without.
_NO_KERNELS = ('reference', 'blocked')
# What 'auto' tries, the fastest first.
_BY_PLATFORM = {
    'cpu': ('blocked', 'reference'),
    'tpu': ('splash', 'reference'),
    'gpu': ('tokamax', 'pallas', 'cudnn', 'reference'),
}


class AttentionError(UserError):
    """An implementation of attention that does not work on this machine;

    says why, and what to set.
    """


def compute_dtype(choice: str) -> Any:
    """`'float32'`, `'bfloat16'`, or `'auto'`: bfloat16 on accelerators."""
    if choice == 'auto':
        choice = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    return jnp.dtype(choice)


def select_attention(
    choice: str, kind: str = 'elastic_ast', dtype: Any = None, required: bool = True
) -> Attend:
    """The attention alone; see `select_attention_with_reason`."""
    return select_attention_with_reason(choice, kind, dtype, required)[0]


def select_attention_with_reason(
    choice: str, kind: str = 'elastic_ast', dtype: Any = None, required: bool = True
) -> tuple[Attend, str]:
    """An implementation of attention that has passed the conformance suite here, and a sentence on
    which and why.

    Args:
        choice: A name of `registry.make`, or `'auto'`: those of the platform in turn, the fastest
        first, the plain one last.
        kind: The fixed-length AST (`'ast'`) has a row for each clip, of which nothing can be
        skipped: `'auto'` is plain.
        dtype: What it will compute in; that of `compute_dtype('auto')` if None.
        required: Another choice than `'auto'` must work here. Otherwise it is tried first, as when
            a model that one platform trained is opened on another: the results are the same. Those
            without kernels are not checked then.

    Raises:
        AttentionError: The choice does not work here; says what is wrong with it.
    """
    platform = jax.default_backend()
    names = _BY_PLATFORM.get(platform, ('reference',)) if kind != 'ast' else ('reference',)
    if choice != 'auto':
        names = (choice,) if required else (choice, *names)
    dtype = compute_dtype('auto') if dtype is None else jnp.dtype(dtype)
    refused = []
    for name in names:
        problems = () if not required and name in _NO_KERNELS else _problems(name, dtype)
        if not problems:
            why = (
                _why(name, platform, kind)
                if choice != name
                else f'as model.attention={choice} says'
            )
            return registry.make(name), '; '.join([f'attention: {name}, {why}', *refused])
        refused.append(f'{name} is refused: {", ".join(problems[:2])}')
    raise AttentionError(
        f"model.attention='{choice}' does not work on this {platform} in {dtype.name}: "
        f"{', '.join(problems[:2])}; set model.attention='auto'"
    )


def _why(name: str, platform: str, kind: str) -> str:
    if kind == 'ast':
        return "for rows of model.kind='ast' are one clip each"
    return f'the fastest that passes its checks on {platform}'


@functools.cache
def _problems(name: str, dtype: Any) -> tuple[str, ...]:
    """What is wrong with an implementation on this machine;

    nothing with the plain one, which all others are to equal.
    """
    if name == 'reference':
        return ()
    tokens = (
        203 if jax.default_backend() == 'cpu' else 603
    )  # several blocks of what runs there, quickly
    try:
        return tuple(conformance.check(registry.make(name), dtype=dtype, tokens=tokens))
    except (
        Exception
    ) as error:  # what libraries that are missing, and compilers, raise has no common base
        return (f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}',)

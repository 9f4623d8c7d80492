"""Select the dtype and the attention for the platform."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from elastic_ast_jax.models.attention import conformance, registry
from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.utils.errors import UserError

# These consist of XLA's operations alone. Training checks them too. Opening a model does not, which
# saves a second.
_NO_KERNELS = ('reference', 'blocked')
# Implementations that 'auto' tries, the fastest first.
_BY_PLATFORM = {
    'cpu': ('blocked', 'reference'),
    'tpu': ('splash', 'reference'),
    'gpu': ('tokamax', 'pallas', 'cudnn', 'reference'),
}


class AttentionError(UserError):
    """An implementation of attention that does not work on this machine.

    The message says why, and what to set.
    """


def compute_dtype(choice: str) -> Any:
    """Return the dtype of the computation.

    Args:
        choice: `'float32'`, `'bfloat16'`, or `'auto'`: bfloat16 on accelerators.
    """
    if choice == 'auto':
        choice = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    return jnp.dtype(choice)


def select_attention(
    choice: str, kind: str = 'elastic_ast', dtype: Any = None, *, required: bool = True
) -> Attend:
    """Return the attention alone; see `select_attention_with_reason`."""
    return select_attention_with_reason(choice, kind, dtype, required=required)[0]


def select_attention_with_reason(
    choice: str, kind: str = 'elastic_ast', dtype: Any = None, *, required: bool = True
) -> tuple[Attend, str]:
    """Return an implementation of attention that passes the conformance suite, and the reason.

    Args:
        choice: A name of `registry.make`, or `'auto'`: the implementations of the platform in turn,
            the fastest first, the reference last.
        kind: `model.kind`. The fixed-length AST (`'ast'`) has a row for each clip, of which nothing
            can be skipped, so `'auto'` is the reference.
        dtype: Of the computation; `compute_dtype('auto')` if None.
        required: Whether a choice other than `'auto'` must work on this machine. If not, it is
            tried first, as when a model is opened on another platform than it was trained on: the
            results are the same. Implementations without kernels are then not checked.

    Raises:
        AttentionError: The choice does not work on this machine; the message says why.
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
            reason = (
                f'as model.attention={choice} says' if choice == name else _reason(platform, kind)
            )
            return registry.make(name), '; '.join([f'attention: {name}, {reason}', *refused])
        refused.append(f'{name} is refused: {", ".join(problems[:2])}')
    raise AttentionError(
        f"model.attention='{choice}' does not work on this {platform} in {dtype.name}: "
        f"{', '.join(problems[:2])}; set model.attention='auto'"
    )


def _reason(platform: str, kind: str) -> str:
    if kind == 'ast':
        return "for rows of model.kind='ast' are one clip each"
    return f'the fastest that passes its checks on {platform}'


@functools.cache
def _problems(name: str, dtype: Any) -> tuple[str, ...]:
    """Return the problems of an implementation on this machine.

    The reference has none, since all others are to equal it.
    """
    if name == 'reference':
        return ()
    # Several blocks of the platform's implementations, in little time.
    tokens = 203 if jax.default_backend() == 'cpu' else 603
    try:
        return tuple(conformance.check(registry.make(name), dtype=dtype, tokens=tokens))
    except Exception as error:  # missing libraries and compilers raise all kinds of errors
        return (f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}',)

"""Which parameters are trained, and which stay as they are."""

import difflib
from collections.abc import Sequence
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from elastic_ast_jax.utils.errors import UserError

NONE_FROZEN: frozenset[str] = frozenset()


def frozen_names(params: Any, beginnings: Sequence[str]) -> frozenset[str]:
    """Dotted names of the parameters that stay as they are.

    Args:
        params: Nested dictionaries; shapes are enough.
        beginnings: Of names, in whole parts: `'encoder'` means all of `encoder.*`,
        `'positions.time'` the one table.

    Raises:
        UserError: A beginning that no parameter has, with the nearest one that some have; or
        nothing is left to train.
    """
    names = list(flatten_dict(params, sep='.'))
    frozen = set()
    for beginning in beginnings:
        found = {name for name in names if f'{name}.'.startswith(f'{beginning}.')}
        if not found:
            parts = [name.split('.') for name in names]
            known = sorted(
                {'.'.join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
            )
            near = difflib.get_close_matches(beginning, known, 1, cutoff=0.0)[0]
            raise UserError(
                f'train.freeze: no parameter of this model is called {beginning!r} or begins with'
                f' it in whole parts: the nearest is {near!r}'
            )
        frozen |= found
    if len(frozen) == len(names):
        raise UserError(
            f'train.freeze={",".join(beginnings)} freezes all {len(names)} parameters: leave out'
            ' one of them, such as head'
        )
    return frozenset(frozen)


def split(params: Any, frozen: frozenset[str]) -> tuple[Any, Any]:
    """The parameters that are trained, and those that are not, each in nested dictionaries of its
    own.
    """
    if not frozen:
        return params, {}
    flat = flatten_dict(params, sep='.')
    trained = {name: leaf for name, leaf in flat.items() if name not in frozen}
    fixed = {name: leaf for name, leaf in flat.items() if name in frozen}
    return unflatten_dict(trained, sep='.'), unflatten_dict(fixed, sep='.')


def merge(trained: Any, fixed: Any) -> Any:
    """What `split` took apart."""
    if not fixed:
        return trained
    return unflatten_dict(flatten_dict(trained, sep='.') | flatten_dict(fixed, sep='.'), sep='.')

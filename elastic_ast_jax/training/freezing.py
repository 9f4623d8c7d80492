"""Freeze parameters: select them by name, and split them from those that are trained."""

import difflib
from collections.abc import Sequence
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from elastic_ast_jax.utils.errors import UserError

NONE_FROZEN: frozenset[str] = frozenset()


def frozen_names(params: Any, prefixes: Sequence[str]) -> frozenset[str]:
    """Return the dotted names of the parameters that stay as they are.

    Args:
        params: Parameters, or their shapes: nested dictionaries.
        prefixes: Prefixes of names, in whole parts: `'encoder'` selects all of `encoder.*`,
            `'positions.time'` one table.

    Raises:
        UserError: No parameter has a prefix (names the nearest one), or no parameter would be
            trained.
    """
    names = list(flatten_dict(params, sep='.'))
    frozen = set()
    for prefix in prefixes:
        selected = {name for name in names if f'{name}.'.startswith(f'{prefix}.')}
        if not selected:
            parts = [name.split('.') for name in names]
            valid = sorted(
                {'.'.join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
            )
            nearest = difflib.get_close_matches(prefix, valid, 1, cutoff=0.0)[0]
            raise UserError(
                f'train.freeze: no parameter of this model is called {prefix!r} or begins with'
                f' it in whole parts: the nearest is {nearest!r}'
            )
        frozen |= selected
    if len(frozen) == len(names):
        raise UserError(
            f'train.freeze={",".join(prefixes)} freezes all {len(names)} parameters: remove'
            ' one of them, such as head'
        )
    return frozenset(frozen)


def split(params: Any, frozen: frozenset[str]) -> tuple[Any, Any]:
    """Split parameters into the trained and the frozen ones, each in nested dictionaries."""
    if not frozen:
        return params, {}
    flat = flatten_dict(params, sep='.')
    trained = {name: leaf for name, leaf in flat.items() if name not in frozen}
    fixed = {name: leaf for name, leaf in flat.items() if name in frozen}
    return unflatten_dict(trained, sep='.'), unflatten_dict(fixed, sep='.')


def merge(trained: Any, fixed: Any) -> Any:
    """Return the parameters that `split` divided."""
    if not fixed:
        return trained
    return unflatten_dict(flatten_dict(trained, sep='.') | flatten_dict(fixed, sep='.'), sep='.')

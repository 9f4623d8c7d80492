"""A row of the parity report: two arrays, how far apart they are, and how far apart they may be."""

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

__all__ = ['Comparison', 'compare', 'compare_by_norm']


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One thing compared.

    Attributes:
        model: Whose it is.
        what: The thing.
        absolute: Largest absolute difference.
        relative: That difference divided by the largest absolute value of the reference; of a
            gradient, the norm of the difference divided by the norm of the reference.
        bound: What must not be exceeded ...
        counts: ... by which of the two.
    """

    model: str
    what: str
    absolute: float
    relative: float
    bound: float
    counts: Literal['absolute', 'relative'] = 'absolute'

    @property
    def passed(self) -> bool:
        """Within the bound; NaN is not."""
        return getattr(self, self.counts) <= self.bound

    @property
    def name(self) -> str:
        return f'{self.model}: {self.what}'


def compare(
    model: str, what: str, found: Float[Any, '...'], wanted: Float[Any, '...'], bound: float
) -> Comparison:
    """A row whose largest absolute difference is bounded."""
    found, wanted = _same_shape(found, wanted, f'{model}: {what}')
    largest = float(np.abs(found - wanted).max())
    return Comparison(model, what, largest, _ratio(largest, float(np.abs(wanted).max())), bound)


def compare_by_norm(
    model: str, what: str, found: Float[Any, '...'], wanted: Float[Any, '...'], bound: float
) -> Comparison:
    """A row whose difference is bounded by its norm, relative to the norm of the reference."""
    found, wanted = _same_shape(found, wanted, f'{model}: {what}')
    difference = found - wanted
    relative = _ratio(float(np.linalg.norm(difference)), float(np.linalg.norm(wanted)))
    return Comparison(model, what, float(np.abs(difference).max()), relative, bound, 'relative')


def _same_shape(found: Any, wanted: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64; broadcasting could hide that one of them is something else."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    if found.shape != wanted.shape or not found.size:
        raise ValueError(
            f'{name}: shape {list(found.shape)} cannot be compared with {list(wanted.shape)}'
        )
    return found, wanted


def _ratio(difference: float, size: float) -> float:
    """0 / 0 is no difference, and anything else by 0 an infinite one."""
    if size == 0:
        return 0.0 if difference == 0 else float('inf')
    return difference / size

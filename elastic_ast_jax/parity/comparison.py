"""Compare two arrays: their difference and its bound, an entry of the parity report."""

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

__all__ = ['Comparison', 'compare', 'compare_by_norm']


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Difference between computed and reference values.

    Attributes:
        model: Name of the model.
        quantity: Name of the values.
        absolute: Largest absolute difference.
        relative: That difference divided by the largest absolute value of the reference. For a
            gradient, the norm of the difference divided by the norm of the reference.
        bound: Largest difference that passes.
        bounded: Which difference the bound applies to.
    """

    model: str
    quantity: str
    absolute: float
    relative: float
    bound: float
    bounded: Literal['absolute', 'relative'] = 'absolute'

    @property
    def passed(self) -> bool:
        """Return whether the difference is within the bound; NaN is not."""
        return getattr(self, self.bounded) <= self.bound

    @property
    def name(self) -> str:
        """Return the name of the model and the values."""
        return f'{self.model}: {self.quantity}'

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the JSON report."""
        return {
            'model': self.model,
            'what': self.quantity,
            'absolute': self.absolute,
            'relative': self.relative,
            'bound': self.bound,
            'counts': self.bounded,
            'passed': self.passed,
        }


def compare(
    model: str,
    quantity: str,
    computed: Float[Any, '...'],
    expected: Float[Any, '...'],
    bound: float,
) -> Comparison:
    """Return a comparison whose largest absolute difference is bounded."""
    computed, expected = _same_shape(computed, expected, f'{model}: {quantity}')
    largest = float(np.abs(computed - expected).max())
    relative = _ratio(largest, float(np.abs(expected).max()))
    return Comparison(model, quantity, largest, relative, bound)


def compare_by_norm(
    model: str,
    quantity: str,
    computed: Float[Any, '...'],
    expected: Float[Any, '...'],
    bound: float,
) -> Comparison:
    """Return a comparison whose difference is bounded by its norm, relative to the reference's."""
    computed, expected = _same_shape(computed, expected, f'{model}: {quantity}')
    difference = computed - expected
    largest = float(np.abs(difference).max())
    relative = _ratio(float(np.linalg.norm(difference)), float(np.linalg.norm(expected)))
    return Comparison(model, quantity, largest, relative, bound, 'relative')


def _same_shape(computed: Any, expected: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return both arrays in float64; broadcasting could hide that shapes differ."""
    computed, expected = np.asarray(computed, np.float64), np.asarray(expected, np.float64)
    if computed.shape != expected.shape or not computed.size:
        raise ValueError(
            f'{name}: shape {list(computed.shape)} cannot be compared with {list(expected.shape)}'
        )
    return computed, expected


def _ratio(difference: float, size: float) -> float:
    """Return the ratio: 0 / 0 is no difference, any other division by 0 an infinite one."""
    if size == 0:
        return 0.0 if difference == 0 else float('inf')
    return difference / size

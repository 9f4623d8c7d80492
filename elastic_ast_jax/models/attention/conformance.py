"""What every implementation of attention passes: the suite that tests run, and that runs before a
kernel is used.

The yardstick is the softmax of each clip alone, in NumPy and float64, which has no packing to get
wrong.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from elastic_ast_jax.models.attention.interface import Attend


def check(
    attend: Attend, heads: int = 2, width: int = 64, dtype: Any = jnp.float32, tokens: int = 603
) -> list[str]:
    """What is wrong with an implementation, one sentence each; empty if nothing is.

    Args:
        attend: See `models.attention.interface`.
        heads, width: Number of heads, and their width.
        dtype: What it is to compute in.
        tokens: Length of the rows that it is given, 48 or more; best several blocks, and no whole
        number of them.

    Raises:
        Exception: Whatever compiling or running it raises.
    """
    case = Case(attend, heads, width, dtype, tokens)
    return [problem for each in CHECKS for problem in each(case)]


class Case:
    """An implementation with five rows for it, and its compiled output and gradients.

    Attributes:
        ids: int32 `[5, T]`: clips and padding.
        q, k, v, gradient: float32 `[5, T, H, K]`, rounded to the dtype; logits are as large as
        those of trained networks.
        dtype: What the implementation computes in.
        error: How far from the yardstick results may lie, over their largest value.
    """

    def __init__(self, attend: Attend, heads: int, width: int, dtype: Any, tokens: int):
        self.attend, self.dtype = attend, jnp.dtype(dtype)
        self.ids = np.stack(
            [
                np.repeat(
                    [1, 2, 3, 4, 5, 0], [13, 1, 22, 1, tokens - 47, 10]
                ),  # clips, two of one token, and padding
                np.repeat([1], [tokens]),  # a clip that fills the row
                np.repeat([0], [tokens]),  # an empty row
                np.minimum(
                    np.arange(1, tokens + 1), 41
                ),  # forty clips of one token, and one of all others
                np.repeat([2, 3, 7, 0], [1, tokens - 5, 2, 2]),  # slots may be left out
            ]
        ).astype(np.int32)
        rng = np.random.default_rng(0)
        shape = (*self.ids.shape, heads, width)
        self.q, self.k, self.v, self.gradient = (
            self.rounded(rng.normal(size=shape)) for _ in range(4)
        )
        self.q = self.rounded(self.q * (8 / width) ** 0.5)
        # Accelerators multiply float32 matrices in lower precision unless told otherwise; a leak is
        # looked for exactly anyway.
        exact = self.dtype == jnp.float32 and jax.default_backend() == 'cpu'
        self.error = 1e-5 if exact else 0.03

        @jax.jit  # one compilation for all checks
        def run(q, k, v, ids, gradient):
            output, pullback = jax.vjp(lambda *x: attend(*x, ids), q, k, v)
            return output, *pullback(gradient)

        self.run = run

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """float32 values that the dtype holds exactly."""
        return x.astype(self.dtype).astype(np.float32)

    def results(self, q, k, v, gradient, ids=None) -> list[np.ndarray]:
        """Output, and the gradients of q, k and v, as float32."""
        arrays = [x.astype(self.dtype) for x in (q, k, v)]
        found = self.run(*arrays, self.ids if ids is None else ids, gradient.astype(self.dtype))
        return [np.array(x, np.float32) for x in found]

    def output(self, q, k, v, ids=None) -> np.ndarray:
        return self.results(q, k, v, np.zeros_like(q), ids)[0]

    def gradients(self, q, k, v, gradient) -> list[np.ndarray]:
        return self.results(q, k, v, gradient)[1:]

    def clips(self) -> list[tuple[int, np.ndarray]]:
        """Row and positions of each clip."""
        return [
            (row, np.flatnonzero(ids == clip))
            for row, ids in enumerate(self.ids)
            for clip in np.unique(ids[ids > 0])
        ]

    def rounds(self) -> Iterator[list[tuple[int, np.ndarray]]]:
        """Row and positions of one clip of each row that has any, in turn:

        first, middle and last ones, and whole rows.
        """
        rows = [[clip for clip in self.clips() if clip[0] == row] for row in range(len(self.ids))]
        for i in range(len(self.ids)):
            yield [clips[i % len(clips)] for clips in rows if clips]

    def expected(self, q, k, v, gradient) -> list[np.ndarray]:
        """Output and gradients, clip by clip, in float64; 0 in padding."""
        arrays = [np.zeros(q.shape) for _ in range(4)]
        for row, where in self.clips():
            parts = single_clip(*(x[row, where].swapaxes(0, 1) for x in (q, k, v, gradient)))
            for array, part in zip(arrays, parts, strict=True):
                array[row, where] = part.swapaxes(0, 1)
        return arrays


def single_clip(q, k, v, gradient) -> tuple[np.ndarray, ...]:
    """Attention of one clip alone, `[H, T, K]`, and the gradients of q, k and v, in float64."""
    q, k, v, gradient = (x.astype(np.float64) for x in (q, k, v, gradient))
    logits = q @ k.mT
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    by_weight = gradient @ v.mT
    by_logit = weights * (by_weight - (weights * by_weight).sum(axis=-1, keepdims=True))
    return weights @ v, by_logit @ k, by_logit.mT @ q, weights.mT @ gradient


_NAMES = ('output', 'gradient of q', 'gradient of k', 'gradient of v')


def check_values(case: Case) -> Iterator[str]:
    """Output and gradients are those of each clip alone."""
    yield from _compared(case, 1.0, case.error)


def check_large_logits(case: Case) -> Iterator[str]:
    """The same with logits up to a hundred, where a token attends to little more than one other."""
    yield from _compared(case, 30.0, max(case.error, 3e-4))  # rounding of a logit grows with it


def _compared(case: Case, scale: float, allowed: float) -> Iterator[str]:
    """Differences from the yardstick, over its largest value, with queries times `scale`."""
    given = (case.rounded(case.q * np.float32(scale)), case.k, case.v, case.gradient)
    for name, found, right in zip(_NAMES, case.results(*given), case.expected(*given), strict=True):
        error = np.abs(found - right).max() / np.abs(right).max()
        if not error <= allowed:  # NaN is not
            yield (
                f'the {name} is {error:.1e} of its largest value off the softmax of each clip'
                f' alone; {allowed:.0e} is allowed'
            )


def check_padding(case: Case) -> Iterator[str]:
    """Padding gives nothing and gets nothing, and everything is finite."""
    for name, found in zip(
        _NAMES, case.results(case.q, case.k, case.v, case.gradient), strict=True
    ):
        if not np.isfinite(found).all():
            yield f'the {name} is not finite'
        if found[case.ids == 0].any():
            yield f'the {name} is not 0 in padding'


def check_single_token(case: Case) -> Iterator[str]:
    """A clip of one token is its own value, and passes its gradient on to it."""
    output, _, _, dv = case.results(case.q, case.k, case.v, case.gradient)
    single = np.stack(
        [
            np.isin(ids, [clip for clip in ids if (ids == clip).sum() == 1 and clip])
            for ids in case.ids
        ]
    )
    for name, found, right in (('output', output, case.v), ('gradient of v', dv, case.gradient)):
        if not np.abs(found - right)[single].max() <= case.error:
            yield f'the {name} of a clip of one token is not its own'


def check_value_leaks(case: Case) -> Iterator[str]:
    """Whatever other clips, other rows and padding hold, a clip's output does not move by more than
    one rounding.
    """
    output = case.output(case.q, case.k, case.v)
    rng = np.random.default_rng(1)
    for kept in case.rounds():
        changed = [case.rounded(rng.normal(scale=20, size=case.q.shape)) for _ in range(3)]
        for new, old in zip(changed, (case.q, case.k, case.v), strict=True):
            for row, where in kept:
                new[row, where] = old[row, where]
        found = case.output(*changed)
        for row, where in kept:
            moved = np.abs(found[row, where] - output[row, where]).max()
            if not moved <= float(jnp.finfo(case.dtype).eps) * np.abs(output[row, where]).max():
                yield (
                    f'the output of {_named(row, where)} moves by {moved:.1e} when other clips'
                    ' change'
                )


def check_gradient_leaks(case: Case) -> Iterator[str]:
    """The gradient of a clip's output is exactly 0 everywhere outside that clip, and not inside."""
    for kept in case.rounds():
        inside = np.zeros(case.ids.shape, bool)
        for row, where in kept:
            inside[row, where] = True
        gradient = np.where(inside[:, :, None, None], case.gradient, 0.0)
        for name, found in zip(
            'qkv', case.gradients(case.q, case.k, case.v, gradient), strict=True
        ):
            for row, where in kept:
                if not (found[row, where].any() or (len(where) == 1 and name != 'v')):
                    yield f'{_named(row, where)} gets no gradient of its own output through {name}'
                if found[row, ~inside[row]].any():
                    leak = np.abs(found[row, ~inside[row]]).max()
                    yield (
                        f'other tokens get {leak:.1e} of the gradient of {_named(row, where)}'
                        f' through {name}'
                    )


CHECKS: tuple[Callable[[Case], Iterator[str]], ...] = (
    check_values,
    check_large_logits,
    check_padding,
    check_single_token,
    check_value_leaks,
    check_gradient_leaks,
)


def _named(row: int, where: np.ndarray) -> str:
    return f'the clip at row {row}, tokens {where[0]} to {where[-1]},'

"""Check that an implementation of attention conforms to the interface.

Tests run it, and so does the selection before a kernel is used. Results are compared with the
softmax of each clip alone, in NumPy and float64, which involves no packing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from elastic_ast_jax.models.attention.interface import Attend

# Row and positions of a clip.
Clip = tuple[int, np.ndarray]


def check(
    attend: Attend, heads: int = 2, width: int = 64, dtype: Any = jnp.float32, tokens: int = 603
) -> list[str]:
    """Return the problems of an implementation, one sentence each; empty if there are none.

    Args:
        attend: See `models.attention.interface`.
        heads: Number of heads.
        width: Of a head.
        dtype: Of the computation.
        tokens: Length of the test's rows, 48 or more; best several blocks, and no whole number of
            them.

    Raises:
        Exception: Whatever compiling or running it raises.
    """
    case = Case(attend, heads, width, dtype, tokens)
    return [problem for check in CHECKS for problem in check(case)]


class Case:
    """Five rows for an implementation, and its compiled output and gradients.

    Attributes:
        ids: int32 `[5, T]`: clips and padding.
        q, k, v, gradient: float32 `[5, T, H, K]`, rounded to the dtype; logits are as large as
            those of trained networks.
        dtype: Of the computation.
        error: Largest allowed error of a result, relative to its largest value.
    """

    def __init__(self, attend: Attend, heads: int, width: int, dtype: Any, tokens: int):
        self.attend, self.dtype = attend, jnp.dtype(dtype)
        rows = [
            # Clips, two of one token, and padding.
            np.repeat([1, 2, 3, 4, 5, 0], [13, 1, 22, 1, tokens - 47, 10]),
            # A clip that fills the row.
            np.repeat([1], [tokens]),
            # An empty row.
            np.repeat([0], [tokens]),
            # Forty clips of one token, and one of the remaining tokens.
            np.minimum(np.arange(1, tokens + 1), 41),
            # Empty slots between clips.
            np.repeat([2, 3, 7, 0], [1, tokens - 5, 2, 2]),
        ]
        self.ids = np.stack(rows).astype(np.int32)
        rng = np.random.default_rng(0)
        shape = (*self.ids.shape, heads, width)
        self.q, self.k, self.v, self.gradient = (
            self.rounded(rng.normal(size=shape)) for _ in range(4)
        )
        self.q = self.rounded(self.q * (8 / width) ** 0.5)
        # By default, accelerators multiply float32 matrices in lower precision. Leaks are checked
        # exactly anyway.
        exact = self.dtype == jnp.float32 and jax.default_backend() == 'cpu'
        self.error = 1e-5 if exact else 0.03

        @jax.jit  # one compilation for all checks
        def run(q, k, v, ids, gradient):
            output, pullback = jax.vjp(lambda *x: attend(*x, ids), q, k, v)
            return output, *pullback(gradient)

        self.run = run

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """Return float32 values that the dtype holds exactly."""
        return x.astype(self.dtype).astype(np.float32)

    def results(self, q, k, v, gradient, ids=None) -> list[np.ndarray]:
        """Return the output and the gradients of q, k and v, as float32."""
        arrays = [x.astype(self.dtype) for x in (q, k, v)]
        results = self.run(*arrays, self.ids if ids is None else ids, gradient.astype(self.dtype))
        return [np.array(x, np.float32) for x in results]

    def output(self, q, k, v, ids=None) -> np.ndarray:
        """Return the output."""
        return self.results(q, k, v, np.zeros_like(q), ids)[0]

    def gradients(self, q, k, v, gradient) -> list[np.ndarray]:
        """Return the gradients of q, k and v."""
        return self.results(q, k, v, gradient)[1:]

    def clips(self) -> list[Clip]:
        """Return all clips."""
        return [
            (row, np.flatnonzero(ids == clip))
            for row, ids in enumerate(self.ids)
            for clip in np.unique(ids[ids > 0])
        ]

    def rounds(self) -> Iterator[list[Clip]]:
        """Yield one clip of each row that has any, in turn the first, middle and last ones."""
        rows = [[clip for clip in self.clips() if clip[0] == row] for row in range(len(self.ids))]
        for i in range(len(self.ids)):
            yield [clips[i % len(clips)] for clips in rows if clips]

    def expected(self, q, k, v, gradient) -> list[np.ndarray]:
        """Return output and gradients, clip by clip, in float64; 0 in padding."""
        arrays = [np.zeros(q.shape) for _ in range(4)]
        for row, tokens in self.clips():
            parts = single_clip(*(x[row, tokens].swapaxes(0, 1) for x in (q, k, v, gradient)))
            for array, part in zip(arrays, parts, strict=True):
                array[row, tokens] = part.swapaxes(0, 1)
        return arrays


def single_clip(q, k, v, gradient) -> tuple[np.ndarray, ...]:
    """Return the attention of one clip alone, `[H, T, K]`, and the gradients, in float64."""
    q, k, v, gradient = (x.astype(np.float64) for x in (q, k, v, gradient))
    logits = q @ k.mT
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    by_weight = gradient @ v.mT
    by_logit = weights * (by_weight - (weights * by_weight).sum(axis=-1, keepdims=True))
    return weights @ v, by_logit @ k, by_logit.mT @ q, weights.mT @ gradient


_NAMES = ('output', 'gradient of q', 'gradient of k', 'gradient of v')


def check_values(case: Case) -> Iterator[str]:
    """Check that output and gradients are those of each clip alone."""
    yield from _errors(case, 1.0, case.error)


def check_large_logits(case: Case) -> Iterator[str]:
    """Check the same with logits up to a hundred, where a token attends to hardly more than one."""
    # The rounding error of a logit grows with the logit.
    yield from _errors(case, 30.0, max(case.error, 3e-4))


def _errors(case: Case, scale: float, allowed: float) -> Iterator[str]:
    """Yield results that differ from each clip alone, with queries times `scale`."""
    inputs = (case.rounded(case.q * np.float32(scale)), case.k, case.v, case.gradient)
    results, expected = case.results(*inputs), case.expected(*inputs)
    for name, result, reference in zip(_NAMES, results, expected, strict=True):
        error = np.abs(result - reference).max() / np.abs(reference).max()
        if not error <= allowed:  # NaN is not
            yield (
                f'the {name} is {error:.1e} of its largest value off the softmax of each clip'
                f' alone; {allowed:.0e} is allowed'
            )


def check_padding(case: Case) -> Iterator[str]:
    """Check that output and gradients are 0 in padding, and finite everywhere."""
    results = case.results(case.q, case.k, case.v, case.gradient)
    for name, result in zip(_NAMES, results, strict=True):
        if not np.isfinite(result).all():
            yield f'the {name} is not finite'
        if result[case.ids == 0].any():
            yield f'the {name} is not 0 in padding'


def check_single_token(case: Case) -> Iterator[str]:
    """Check that a clip of one token gives its own value and gradient."""
    output, _, _, dv = case.results(case.q, case.k, case.v, case.gradient)
    single = np.stack(
        [
            np.isin(ids, [clip for clip in ids if (ids == clip).sum() == 1 and clip])
            for ids in case.ids
        ]
    )
    pairs = (('output', output, case.v), ('gradient of v', dv, case.gradient))
    for name, result, reference in pairs:
        if not np.abs(result - reference)[single].max() <= case.error:
            yield f'the {name} of a clip of one token is not its own'


def check_value_leaks(case: Case) -> Iterator[str]:
    """Check that other clips, rows and padding change a clip's output by one rounding at most."""
    output = case.output(case.q, case.k, case.v)
    rng = np.random.default_rng(1)
    for clips in case.rounds():
        changed = [case.rounded(rng.normal(scale=20, size=case.q.shape)) for _ in range(3)]
        for new, old in zip(changed, (case.q, case.k, case.v), strict=True):
            for row, tokens in clips:
                new[row, tokens] = old[row, tokens]
        new_output = case.output(*changed)
        for row, tokens in clips:
            change = np.abs(new_output[row, tokens] - output[row, tokens]).max()
            if not change <= float(jnp.finfo(case.dtype).eps) * np.abs(output[row, tokens]).max():
                yield (
                    f'the output of {_describe(row, tokens)} moves by {change:.1e} when other clips'
                    ' change'
                )


def check_gradient_leaks(case: Case) -> Iterator[str]:
    """Check that the gradient of a clip's output is exactly 0 outside that clip, and not inside."""
    for clips in case.rounds():
        inside = np.zeros(case.ids.shape, bool)
        for row, tokens in clips:
            inside[row, tokens] = True
        gradient = np.where(inside[:, :, None, None], case.gradient, 0.0)
        results = case.gradients(case.q, case.k, case.v, gradient)
        for name, result in zip('qkv', results, strict=True):
            for row, tokens in clips:
                clip = _describe(row, tokens)
                if not (result[row, tokens].any() or (len(tokens) == 1 and name != 'v')):
                    yield f'{clip} gets no gradient of its own output through {name}'
                if result[row, ~inside[row]].any():
                    leak = np.abs(result[row, ~inside[row]]).max()
                    yield f'other tokens get {leak:.1e} of the gradient of {clip} through {name}'


CHECKS: tuple[Callable[[Case], Iterator[str]], ...] = (
    check_values,
    check_large_logits,
    check_padding,
    check_single_token,
    check_value_leaks,
    check_gradient_leaks,
)


def _describe(row: int, tokens: np.ndarray) -> str:
    return f'the clip at row {row}, tokens {tokens[0]} to {tokens[-1]},'

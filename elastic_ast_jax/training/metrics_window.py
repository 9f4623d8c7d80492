"""Average the metrics of the steps since the last log line."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from elastic_ast_jax.training.step import StepMetrics


class WindowMeans(NamedTuple):
    """Means over the steps of a window.

    Attributes:
        loss, accuracy: Means over clips; NaN without a clip.
        gradient_norm: The norm of the last step's gradient.
        clips_per_second, tokens_per_second, model_flops_per_second: Rates of training.
        fill: The share of real tokens in all rows.
    """

    loss: float
    accuracy: float
    gradient_norm: float
    clips_per_second: float
    tokens_per_second: float
    model_flops_per_second: float
    fill: float


class MetricsWindow:
    """Collects the metrics of consecutive steps and the time that they took."""

    def __init__(self, batch_tokens: int):
        """Open the first window.

        Args:
            batch_tokens: The number of token positions in a batch.
        """
        self._batch_tokens = batch_tokens
        self.reset()

    def reset(self) -> None:
        """Open a new window, which begins now."""
        self._steps: list[tuple[StepMetrics, int]] = []
        self._paused_seconds = 0.0
        self._start = time.perf_counter()

    def add(self, metrics: StepMetrics, flops: int) -> None:
        """Add a step.

        Args:
            metrics: Its metrics, on the host.
            flops: Its model FLOPs.
        """
        self._steps.append((metrics, flops))

    def means(self) -> WindowMeans:
        """Return the means over the steps of the window, which has at least one."""
        seconds = time.perf_counter() - self._start - self._paused_seconds
        total = StepMetrics(*np.sum([metrics for metrics, _ in self._steps], axis=0))
        last, _ = self._steps[-1]
        return WindowMeans(
            loss=total.loss / total.clips if total.clips else math.nan,
            accuracy=total.correct / total.clips if total.clips else math.nan,
            gradient_norm=last.gradient_norm,
            clips_per_second=total.clips / seconds,
            tokens_per_second=total.tokens / seconds,
            model_flops_per_second=sum(flops for _, flops in self._steps) / seconds,
            fill=total.tokens / (len(self._steps) * self._batch_tokens),
        )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of this block from the rates."""
        start = time.perf_counter()
        yield
        self._paused_seconds += time.perf_counter() - start

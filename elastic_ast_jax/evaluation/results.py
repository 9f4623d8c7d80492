"""Hold what an evaluation measured."""

import dataclasses
import math

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.training.metrics import Metrics

__all__ = ['Evaluation', 'selection_score']


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Hold the results of parameters on a split.

    Attributes:
        metrics: Metrics over the clips that could be read.
        cropped: Number of these clips of which only a part was used.
        windowed: Number of these clips that were split into windows, whose logits were averaged.
        skipped: A message for each clip that was skipped (`data.on_bad_audio='skip'`): clips that
            could not be opened, then clips that could not be decoded.
        tokens, seconds: Means over these clips: tokens and seconds of a clip that the model got.
    """

    metrics: Metrics
    cropped: int
    windowed: int
    skipped: tuple[str, ...]
    tokens: float = math.nan
    seconds: float = math.nan


def selection_score(config: Config, metrics: Metrics) -> float:
    """Return the metric that selects the best checkpoint."""
    return getattr(metrics, config.train.selection_metric())

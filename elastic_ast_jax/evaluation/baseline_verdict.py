"""Compare a trained model with logistic regression on the same clips."""

import math
from collections.abc import Iterator

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.evaluation import baseline
from elastic_ast_jax.evaluation.results import selection_score
from elastic_ast_jax.utils.errors import UserError

__all__ = ['describe']


def describe(config: Config, score: float, *, is_selected: bool = False) -> Iterator[str]:
    """Yield the results of both baselines, and whether a model wins against them.

    Args:
        config: The config of the model.
        score: The metric of the model that selects checkpoints.
        is_selected: Whether the score is the best of several evaluations on these clips.
    """
    try:
        results = baseline.measure(config)
    except UserError as error:  # training is finished all the same
        yield f'warning: no comparison with logistic regression: {error}'
        return
    for description, metrics in results:
        yield f'{description}: {baseline.summarize(metrics)}'
    metric = config.train.selection_metric().replace('_', ' ')
    note = ' (the best of its evaluations on these clips, which favors it)' if is_selected else ''
    best = max(selection_score(config, metrics) for _, metrics in results)
    if math.isnan(score) or math.isnan(best):
        yield f'no comparison with logistic regression: {metric} is undefined on these clips'
    elif score > best:
        yield f'the model wins: {metric} {score:.4f}{note}, logistic regression {best:.4f}'
    else:
        yield (
            f'the model does not win: {metric} {score:.4f}{note}, logistic regression {best:.4f}.'
            ' What may help: more recordings, pretrained weights (init.from), and more epochs if'
            ' the training loss still falls'
        )

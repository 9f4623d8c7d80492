"""Compare a trained model with logistic regression on the same clips."""

from collections.abc import Iterator

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.evaluation import baseline
from elastic_ast_jax.evaluation.results import selection_score

__all__ = ['describe']


def describe(config: Config, score: float) -> Iterator[str]:
    """Yield the results of both baselines, and whether a model wins against them.

    Args:
        config: The config of the model.
        score: The metric of the model that selects checkpoints.

    Raises:
        DataError, AudioError, UserError: See `baseline.run`.
    """
    best = -float('inf')
    for description, metrics in baseline.measure(config):
        yield f'{description}: {baseline.summarize(metrics)}'
        best = max(best, selection_score(config, metrics))
    metric = config.train.selection_metric().replace('_', ' ')
    if score > best:
        yield f'the model wins: {metric} {score:.4f}, logistic regression {best:.4f}'
        return
    yield (
        f'the model does not win: {metric} {score:.4f}, logistic regression {best:.4f}. What may'
        ' help: more recordings, pretrained weights (init.from), and more epochs if the training'
        ' loss still falls'
    )

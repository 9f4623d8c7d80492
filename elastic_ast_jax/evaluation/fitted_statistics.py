"""Fit the linear layer of a network on statistics of log-mels, before training begins.

It is the logistic regression of `baseline`, on the statistics that the network computes.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data.sources.base import FileSource, Source
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.evaluation import linear_classifier
from elastic_ast_jax.evaluation.evaluator import Evaluator
from elastic_ast_jax.evaluation.linear_classifier import LinearClassifier
from elastic_ast_jax.models import clip_statistics, pooling
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.training.step import EvalOutputs, StepMetrics

__all__ = ['FittedLayer', 'fit_statistics', 'linear_layer']

# More clips hardly change the regression.
_MAX_CLIPS = 20_000
# Logits of a class that no training clip has, or that all have, below or above all others.
_BEYOND = 10.0


class FittedLayer(NamedTuple):
    """Hold a fitted linear layer.

    Attributes:
        params: Its kernel and bias, by their names with slashes.
        report: A line on the fit.
    """

    params: dict[str, Float32[np.ndarray, '...']]
    report: str


def fit_statistics(
    config: Config, labels: tuple[str, ...], source: Source, mesh: Mesh
) -> FittedLayer:
    """Fit the layer `statistics` to the clips of the training split.

    Args:
        config: The configuration of the run.
        labels: Names of the classes.
        source: The training split.
        mesh: The devices.
    """
    if isinstance(source, FileSource) and len(source) > _MAX_CLIPS:
        source = source.select(linear_classifier.sample(len(source), _MAX_CLIPS).tolist())
    frontend = config.frontend
    width = clip_statistics.GROUPS * frontend.mel_bins

    def statistics_step(params: Any, batch: PackedBatch) -> EvalOutputs:
        members = pooling.membership(batch.segment_ids, batch.valid.shape[1])
        values = clip_statistics.clip_statistics(
            batch, members, frontend.mel_patches, frontend.patch_frames
        )
        nothing = StepMetrics(*[jax.numpy.zeros(())] * len(StepMetrics._fields))
        return EvalOutputs(values, batch.clip_id, batch.valid, nothing)

    step = sharding.jit_eval_step(statistics_step, mesh, None)
    evaluator = Evaluator(config, labels, step, mesh, source, split='train', width=width)
    features, clips = evaluator.decodable_logits(None)
    features = features[clips].astype(np.float64)
    truth = linear_classifier.truth_table([evaluator.targets[i] for i in clips], len(labels))
    several = config.train.loss == 'bce'
    c, _ = linear_classifier.choose_c(features, truth, several=several)
    classifier = linear_classifier.fit(features, truth, several=several, c=c)
    kernel, bias = linear_layer(classifier)
    return FittedLayer(
        {'statistics/kernel': kernel, 'statistics/bias': bias},
        f'statistics: logistic regression, {len(clips)} training clips, C={c:g}',
    )


def linear_layer(
    classifier: LinearClassifier,
) -> tuple[Float32[np.ndarray, 'F C'], Float32[np.ndarray, 'C']]:
    """Return kernel and bias of a regression, without its normalization of the features.

    A class of no training clip gets logits below all others, and one of all of them above.
    """
    weights = classifier.weights / classifier.deviation
    biases = classifier.biases - weights @ classifier.mean
    kernel = np.zeros((weights.shape[1], classifier.classes), np.float32)
    bias = np.full(classifier.classes, -_BEYOND, np.float32)
    kernel[:, classifier.learned], bias[classifier.learned] = weights.T, biases
    bias[classifier.always] = _BEYOND
    return kernel, bias

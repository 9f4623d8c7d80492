"""Fit the linear layer of a network on statistics of log-mels, before training begins.

It is the logistic regression of `baseline`, on the statistics that the network computes.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Float64

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.sources import clip_labels
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.data.sources.selected import SelectedSource
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.evaluation import linear_classifier
from elastic_ast_jax.evaluation.evaluator import Evaluator
from elastic_ast_jax.evaluation.linear_classifier import LinearClassifier
from elastic_ast_jax.models import clip_statistics, pooling
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.training.step import make_values_step
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import pluralize

__all__ = ['FittedLayer', 'fit_statistics', 'linear_layer']

# More clips hardly change the regression.
_MAX_CLIPS = 20_000
# How far the logits of a class that no training clip has, or that all have, are beyond the others.
_MARGIN = 10.0


class FittedLayer(NamedTuple):
    """Hold a fitted linear layer.

    Attributes:
        params: Its kernel and bias, by their names with slashes.
        report: A line on the fit.
    """

    params: dict[str, Float32[np.ndarray, '...']]
    report: str


def fit_statistics(
    config: Config,
    labels: tuple[str, ...],
    source: Source,
    mesh: Mesh,
    progress: Progress,
) -> FittedLayer:
    """Fit the layer `statistics` to the clips of the training split.

    All processes call it, and get the layer that the first one fits.

    Args:
        config: The configuration of the run.
        labels: Names of the classes.
        source: The training split.
        mesh: The devices.
        progress: Shows what is done.

    Raises:
        DataError: All clips have the same labels, or none can be decoded.
    """
    progress.show('statistics of the training clips')
    groups = splits.groups_of(config, source)
    if len(source.keys) > _MAX_CLIPS:
        selected = linear_classifier.sample(len(source.keys), _MAX_CLIPS)
        source = SelectedSource(source, selected)
        groups = [groups[clip] for clip in selected.tolist()] if groups else []
    evaluator = _open(config, labels, source, mesh)
    features, clips = evaluator.decodable_logits(None)
    features = features[clips].astype(np.float64)
    clip_labels.check_distinct(
        [source.labels[clip] for clip in clips],
        'model.statistics=True fits logistic regression, and ',
    )
    truth = linear_classifier.truth_table([evaluator.targets[i] for i in clips], len(labels))
    several = config.train.loss == 'bce'
    progress.show('fitting logistic regression')
    c, _ = linear_classifier.choose_c(
        features, truth, [groups[clip] for clip in clips] if groups else [], several=several
    )
    classifier = linear_classifier.fit(features, truth, several=several, c=c)
    # Processors of another kind may round otherwise.
    kernel, bias = multihost_utils.broadcast_one_to_all(linear_layer(classifier, features))
    return FittedLayer(
        {'statistics/kernel': np.asarray(kernel), 'statistics/bias': np.asarray(bias)},
        f'statistics: logistic regression, {pluralize(len(clips), "training clip")}, C={c:g}',
    )


def _open(config: Config, labels: tuple[str, ...], source: Source, mesh: Mesh) -> Evaluator:
    """Return an evaluator whose logits are the statistics of each clip."""
    frontend = config.frontend

    def statistics(_: Any, batch: PackedBatch) -> Float[Array, 'R S F']:
        members = pooling.membership(batch.segment_ids, batch.valid.shape[1])
        return clip_statistics.clip_statistics(
            batch, members, frontend.mel_patches, frontend.patch_frames
        )

    # Training may crop or shorten clips that are too long to be evaluated whole.
    if config.data.too_long == 'error':
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, too_long='crop'))
    return Evaluator(
        config,
        labels,
        sharding.jit_eval_step(make_values_step(statistics), mesh),
        mesh,
        source,
        split='train',
        width=clip_statistics.GROUPS * frontend.mel_bins,
    )


def linear_layer(
    classifier: LinearClassifier, features: Float64[np.ndarray, 'N F']
) -> tuple[Float32[np.ndarray, 'F C'], Float32[np.ndarray, 'C']]:
    """Return kernel and bias of a regression, without its normalization of the features.

    A class of no training clip gets a constant logit below all of those of the training clips, and
    a class of all clips one above them.

    Args:
        classifier: The regression.
        features: Features of the training clips.
    """
    weights = classifier.weights / classifier.deviation
    biases = classifier.biases - weights @ classifier.mean
    logits = features @ weights.T + biases
    kernel = np.zeros((weights.shape[1], classifier.classes), np.float32)
    bias = np.full(classifier.classes, logits.min() - _MARGIN, np.float32)
    kernel[:, classifier.learned], bias[classifier.learned] = weights.T, biases
    bias[classifier.always] = logits.max() + _MARGIN
    return kernel, bias

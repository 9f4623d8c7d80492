"""Save a regression on embedding and statistics as the last layers of a network."""

import os
from collections.abc import Sequence

import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Float64

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.evaluation.fitted_statistics import linear_layer
from elastic_ast_jax.evaluation.linear_classifier import LinearClassifier
from elastic_ast_jax.pretrained import save_workdir
from elastic_ast_jax.pretrained.weights import Params
from elastic_ast_jax.probing.features import FrozenNetwork
from elastic_ast_jax.utils.files import write_text

__all__ = ['class_layers', 'save_classifier']

# The logits of a network with statistics are the mean of those of two layers.
_LAYERS = 2


def class_layers(
    classifier: LinearClassifier, features: Float64[np.ndarray, 'N F'], width: int
) -> Params:
    """Return the layers `head` and `statistics` whose mean of logits is a regression.

    Args:
        classifier: A regression on the embedding, and on the statistics after it.
        features: Those of the training clips.
        width: The number of values of the embedding.
    """
    kernel, bias = linear_layer(classifier, features)
    return {
        'head/kernel': _LAYERS * kernel[:width],
        'head/bias': _LAYERS * bias,
        'statistics/kernel': _LAYERS * kernel[width:],
        'statistics/bias': np.zeros_like(bias),
    }


def save_classifier(
    out: str | os.PathLike,
    config: Config,
    labels: Sequence[str],
    frozen: FrozenNetwork,
    classifier: LinearClassifier,
    features: Float64[np.ndarray, 'N F'],
    report: str,
) -> None:
    """Write a workdir whose logits are those of a regression.

    Args:
        out: The workdir, which must hold no model.
        config: The config of the network.
        labels: Names of the classes.
        frozen: The network and its encoder.
        classifier: A regression on embedding and statistics.
        features: Embedding and statistics of the training clips.
        report: A line on the regression.

    Raises:
        ConvertError: The workdir holds a model, or the layers are no finite numbers.
        LockedError: A run uses it.
        WorkdirError, CheckpointError: It cannot be written.
    """
    width = config.model.resolved_size().width
    params = {**frozen.params, **class_layers(classifier, features, width)}
    save_workdir.check(config, labels, out)
    with save_workdir.hold_new(out) as workdir:
        save_workdir.save(workdir, config, labels, unflatten_dict(params, sep='/'))
        lines = [*frozen.report, f'head, statistics: {report}']
        write_text(workdir.starting_point, '\n'.join(lines) + '\n')

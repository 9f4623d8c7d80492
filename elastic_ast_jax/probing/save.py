"""Save a regression as the last layers of a network."""

import os
from collections.abc import Sequence

import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Float32

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.pretrained import save_workdir
from elastic_ast_jax.pretrained.weights import Params
from elastic_ast_jax.probing.features import ClipFeatures, Features, FrozenNetwork
from elastic_ast_jax.utils.files import write_text

__all__ = ['class_layers', 'save_classifier']

# The logits of a network with statistics are the mean of those of two layers.
_LAYERS = 2


def class_layers(
    layer: tuple[Float32[np.ndarray, 'F C'], Float32[np.ndarray, 'C']],
    features: Features,
    clips: ClipFeatures,
) -> Params:
    """Return the layers `head` and `statistics` whose mean of logits is a regression.

    Args:
        layer: Kernel and bias of the regression.
        features: The features that it takes; `'both'` are the embedding, then the statistics.
        clips: Clips that have these features.
    """
    kernel, bias = layer
    width, count = clips.embedding.shape[1], clips.statistics.shape[1]
    nothing = np.zeros((width + count, len(bias)), np.float32)
    whole = {
        'embedding': lambda: np.concatenate([kernel, nothing[width:]]),
        'statistics': lambda: np.concatenate([nothing[:width], kernel]),
        'both': lambda: kernel,
    }[features]()
    return {
        'head/kernel': _LAYERS * whole[:width],
        'head/bias': _LAYERS * bias,
        'statistics/kernel': _LAYERS * whole[width:],
        'statistics/bias': np.zeros_like(bias),
    }


def save_classifier(
    out: str | os.PathLike,
    config: Config,
    labels: Sequence[str],
    frozen: FrozenNetwork,
    layers: Params,
    report: str,
) -> None:
    """Write a workdir whose logits are those of a regression.

    Args:
        out: The workdir, which must hold no model.
        config: The config of the network.
        labels: Names of the classes.
        frozen: The network and its encoder.
        layers: Those that classify; see `class_layers`.
        report: A line on the regression.

    Raises:
        ConvertError: The workdir holds a model, or the layers are no finite numbers.
        LockedError: A run uses it.
        WorkdirError, CheckpointError: It cannot be written.
    """
    params = {**frozen.params, **layers}
    save_workdir.check(config, labels, out)
    with save_workdir.hold_new(out) as workdir:
        save_workdir.save(workdir, config, labels, unflatten_dict(params, sep='/'))
        lines = [*frozen.report, f'head, statistics: {report}']
        write_text(workdir.starting_point, '\n'.join(lines) + '\n')

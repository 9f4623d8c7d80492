"""From a configuration to the parts that a step is made of."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from elastic_ast_jax import losses, optimizer
from elastic_ast_jax.batch import BatchShape
from elastic_ast_jax.config import Config
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.attention import Attend
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.models.encoder import Place, anywhere

Network = ElasticAST | AST


def batch_shape(config: Config, classes: int, rows: int | None = None) -> BatchShape:
    """The shape of a batch of `rows` rows; of the config's if None."""
    packing = config.packing
    return BatchShape(
        rows=rows or packing.rows,
        tokens=packing.tokens,
        slots=packing.slots,
        patch_size=config.frontend.patch_size,
        classes=classes,
        multi_label=config.train.loss == 'bce',
    )


def model(
    config: Config,
    classes: int,
    attend: Attend,
    dtype: Any,
    scan: bool | None = None,
    place: Place = anywhere,
) -> Network:
    """The network; `scan` overrides the config's, which changes no result."""
    wanted, frontend = config.model, config.frontend
    common = dict(
        size=wanted.resolved(),
        classes=classes,
        attend=attend,
        scaled=wanted.scaled and not config.init.published_quirks,
        scan=wanted.scan if scan is None else scan,
        remat=wanted.remat,
        dtype=dtype,
        epsilon=wanted.epsilon,
        place=place,
    )
    if wanted.kind == 'ast':
        patch = frontend.patch_mels, frontend.patch_frames
        frames = wanted.frames or frontend.max_frames
        return AST(
            mels=frontend.mel_bins, frames=frames, patch=patch, stride=wanted.stride, **common
        )
    return ElasticAST(
        grid=(frontend.mel_patches, frontend.max_time_patches), pool=wanted.pool, **common
    )


def init_params(network: Network, shape: BatchShape, seed: int) -> Any:
    """Fresh parameters: a pure function of the network and the seed."""
    batch = jax.tree.map(
        lambda field: jnp.zeros(field.shape, field.dtype), shape.abstract()
    )  # nothing, while this is traced
    return network.init(jax.random.key(seed), batch)['params']


def loss(config: Config) -> losses.Loss:
    """The loss per clip."""
    if config.train.loss == 'bce':
        return losses.binary_cross_entropy
    return losses.cross_entropy(config.train.label_smoothing)


def rate(config: Config, epoch_ends: np.ndarray) -> optimizer.Schedule:
    """The learning rate at each step; `epoch_ends[e]` steps are made by the end of epoch e."""
    chosen, steps = config.optimizer, int(epoch_ends[-1])
    warmup = math.ceil(chosen.warmup_epochs * steps / len(epoch_ends))
    if chosen.schedule == 'published':
        return optimizer.published(chosen.rate, epoch_ends, chosen.decay_from, chosen.decay_factor)
    if chosen.schedule == 'constant':
        return optimizer.constant(chosen.rate, warmup)
    return optimizer.cosine(chosen.rate, steps, warmup)


def update(config: Config, schedule: optimizer.Schedule) -> optax.GradientTransformation:
    """The optimiser: clipping, then the update, then its scale by layer."""
    chosen = config.optimizer
    make = {'adamw': optimizer.adamw, 'adam_l2': optimizer.adam_l2}[chosen.kind]
    made = optimizer.clipped(
        make(schedule, chosen.b1, chosen.b2, chosen.epsilon, chosen.weight_decay), chosen.clip_norm
    )
    return optimizer.layerwise(made, chosen.layer_decay, config.model.resolved().depth)

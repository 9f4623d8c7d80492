"""From a configuration to the loss, the learning rate and the optimizer."""

import math

import numpy as np
import optax

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.training import losses, optimizer


def make_loss(config: Config) -> losses.Loss:
    """The loss per clip."""
    if config.train.loss == 'bce':
        return losses.binary_cross_entropy
    return losses.cross_entropy(config.train.label_smoothing)


def learning_rate_schedule(config: Config, epoch_ends: np.ndarray) -> optimizer.Schedule:
    """The learning rate at each step; `epoch_ends[e]` steps are made by the end of epoch e."""
    chosen, steps = config.optimizer, int(epoch_ends[-1])
    warmup = math.ceil(chosen.warmup_epochs * steps / len(epoch_ends))
    if chosen.schedule == 'published':
        return optimizer.published_schedule(
            chosen.learning_rate, epoch_ends, chosen.decay_from, chosen.decay_factor
        )
    if chosen.schedule == 'constant':
        return optimizer.constant_schedule(chosen.learning_rate, warmup)
    return optimizer.cosine_schedule(chosen.learning_rate, steps, warmup)


def make_optimizer(config: Config, schedule: optimizer.Schedule) -> optax.GradientTransformation:
    """The optimiser: clipping, then the update, then its scale by layer."""
    chosen = config.optimizer
    make = {'adamw': optimizer.adamw, 'adam_l2': optimizer.adam_l2}[chosen.kind]
    made = optimizer.with_clipping(
        make(schedule, chosen.b1, chosen.b2, chosen.eps, chosen.weight_decay), chosen.clip_norm
    )
    return optimizer.with_layer_decay(made, chosen.layer_decay, config.model.resolved_size().depth)

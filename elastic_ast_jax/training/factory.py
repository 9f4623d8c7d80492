"""Build the loss, the learning rate and the optimizer of a configuration."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import optax

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.training import losses, optimizer
from elastic_ast_jax.training.class_weights import ClassWeights


def make_loss(config: Config, weights: ClassWeights | None = None) -> losses.Loss:
    """Return the loss per clip.

    Args:
        config: The configuration.
        weights: The weights of classes; None: all count alike.
    """
    if config.train.loss != 'bce':
        return losses.cross_entropy(
            config.train.label_smoothing, None if weights is None else weights.positive
        )
    if weights is None or weights.negative is None:
        return losses.binary_cross_entropy
    return losses.weighted_binary_cross_entropy(weights.positive, weights.negative)


def learning_rate_schedule(
    config: Config, epoch_ends: np.ndarray, extended_after: Sequence[int] = ()
) -> optimizer.Schedule:
    """Return the learning rate of each step.

    Args:
        config: The configuration.
        epoch_ends: The number of steps at the end of each epoch.
        extended_after: The epochs after which a finished run was extended, ascending. Each of the
            steps before has the learning rate of the run as it was then.
    """
    schedule = _schedule(config, epoch_ends)
    for epochs in reversed(extended_after):
        before = _schedule(config, epoch_ends[:epochs])
        schedule = _join(before, schedule, int(epoch_ends[epochs - 1]))
    return schedule


def _join(before: optimizer.Schedule, after: optimizer.Schedule, step: int) -> optimizer.Schedule:
    """Return one schedule up to a step, and another one from there on."""
    return lambda count: jnp.where(count < step, before(count), after(count))


def _schedule(config: Config, epoch_ends: np.ndarray) -> optimizer.Schedule:
    """Return the learning rate of each step of a run that was never extended."""
    settings, steps = config.optimizer, int(epoch_ends[-1])
    warmup = math.ceil(settings.warmup_epochs * steps / len(epoch_ends))
    if settings.schedule == 'published':
        return optimizer.published_schedule(
            settings.learning_rate, epoch_ends, settings.decay_from, settings.decay_factor
        )
    if settings.schedule == 'constant':
        return optimizer.constant_schedule(settings.learning_rate, warmup, settings.warmup_start)
    return optimizer.cosine_schedule(settings.learning_rate, steps, warmup)


def thaw_step(config: Config, epoch_ends: np.ndarray) -> int:
    """Return the step from which the parameters of `train.freeze` are trained; 0 for never."""
    bounds = np.concatenate([[0], epoch_ends])
    return math.ceil(np.interp(config.train.freeze_epochs, np.arange(len(bounds)), bounds))


def make_optimizer(config: Config, schedule: optimizer.Schedule) -> optax.GradientTransformation:
    """Return the optimizer: clipping, then the update, then its scale by layer."""
    settings = config.optimizer
    values = settings.b1, settings.b2, settings.eps, settings.weight_decay
    update = (
        optimizer.adam_l2(schedule, *values)
        if settings.kind == 'adam_l2'
        else optimizer.adamw(schedule, *values, decay_all=settings.decay_all)
    )
    clipped = optimizer.with_clipping(update, settings.clip_norm)
    return optimizer.with_layer_decay(
        clipped, settings.layer_decay, config.model.resolved_size().depth
    )

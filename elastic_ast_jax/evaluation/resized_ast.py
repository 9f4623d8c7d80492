"""Resize a fixed-length AST to clips of another length, as the paper evaluates its baselines.

The positions in time are resized. The other way to use such a model on another length, padding or
cropping the clip to the model's own, needs nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from elastic_ast_jax.checkpointing.load_model import LoadedModel
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.models import position_interpolation
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.utils.errors import UserError


class ResizeError(UserError):
    """Report a model without a length of its own."""


def resize_ast(
    model: LoadedModel, config: Config, frames: int, mesh: Mesh, *, same_duration: bool
) -> tuple[LoadedModel, Config]:
    """Return the model for clips of `frames` frames, and a config that pads or crops clips to them.

    A shorter model keeps the first of its positions, where the beginning of a clip has always been.
    A longer one has them resized bilinearly. Clips of the same duration in more or fewer frames
    have them resized either way.

    Args:
        model: A fixed-length AST.
        config: Config that the model is evaluated with. A row has as many clips as fit its tokens,
            and at least one.
        frames: Frames of every clip, padded to a whole number of patches.
        mesh: Devices that the model runs on.
        same_duration: The clips have as many seconds as the model was trained with.

    Raises:
        ResizeError: The model is no AST.
    """
    network, frontend = model.network, config.frontend
    if not isinstance(network, AST):
        raise ResizeError(
            f'model.kind={config.model.kind!r} has no length of its own, so there is nothing to'
            ' resize: leave --fixed_length=resized to ASTs'
        )
    padded_frames = -(-frames // frontend.patch_frames) * frontend.patch_frames
    resized = network.clone(frames=max(padded_frames, network.patch[1]))
    params = dict(model.params) | {
        'positions': _resize_positions(
            np.asarray(jax.device_get(model.params['positions'])),
            network,
            resized,
            same_duration=same_duration,
        )
    }
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    slots = max(1, config.packing.tokens // resized.clip_tokens)
    tokens = slots * resized.clip_tokens
    resized_config = dataclasses.replace(
        config,
        frontend=dataclasses.replace(frontend, min_frames=padded_frames, max_frames=padded_frames),
        model=dataclasses.replace(config.model, frames=0),
        packing=dataclasses.replace(config.packing, slots=slots, tokens=tokens),
    )
    params = jax.device_put(params, sharding.params_shardings(abstract, mesh))
    return dataclasses.replace(model, network=resized, params=params), resized_config


def _resize_positions(
    positions: Float[np.ndarray, 'tokens D'], network: AST, resized: AST, *, same_duration: bool
) -> Float[Array, 'resized_tokens D']:
    """Return the position embeddings of a network for the patch grid of a resized one."""
    (rows, columns), new_columns = network.grid, resized.grid[1]
    prefix = network.prefix_tokens
    axis = position_interpolation.Axis(
        'time', columns, new_columns, network.stride[1], network.stride[1]
    )
    if same_duration or new_columns > columns:
        lookup = position_interpolation.resize(axis)
    else:
        lookup = position_interpolation.take_first(axis)
    grid = position_interpolation.interpolate(
        positions[prefix:].reshape(rows, columns, -1), lookup.positions, axis=1
    )
    return jnp.concatenate([positions[:prefix], grid.reshape(rows * new_columns, -1)])

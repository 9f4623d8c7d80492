"""A fixed-length AST for clips of another length: its positions in time are resized, as the paper
evaluates its baselines.

The other way to use such a model on another length is to pad or cut the clip to its own, which
needs nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from elastic_ast_jax.checkpointing.load_model import LoadedModel
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.models import position_interpolation
from elastic_ast_jax.models.ast import AST, SPECIAL_TOKENS
from elastic_ast_jax.utils.errors import UserError


class ResizeError(UserError):
    """A model that has no length of its own, or a length without a patch."""


def resize_ast(
    model: LoadedModel, used: Config, frames: int, mesh: Mesh, same_duration: bool
) -> tuple[LoadedModel, Config]:
    """The model with positions for clips of `frames` frames, and a config that pads or cuts every
    clip to them.

    Shorter, it has the first of its positions, where the beginning of a clip has always been;
    longer, they are resized bilinearly. Clips of the same duration in more or fewer frames have
    them resized either way.

    Args:
        model: An AST.
        used: The config that it is evaluated with. A row has as many clips as fit its tokens, and
        at least one.
        frames: Of every clip; more than a whole number of patches is padded to the next.
        mesh: Where it runs.
        same_duration: The clips have as many seconds as the model was trained with.

    Raises:
        ResizeError: The model is no AST, or the clips have less than a patch.
    """
    network, frontend = model.network, used.frontend
    if not isinstance(network, AST):
        raise ResizeError(
            f'model.kind={used.model.kind!r} has no length of its own, so there is nothing to'
            ' resize: leave --fixed_length=resized to ASTs'
        )
    whole = -(-frames // frontend.patch_frames) * frontend.patch_frames
    there = network.clone(frames=max(whole, network.patch[1]))
    (rows, before), columns = network.grid, there.grid[1]
    axis = position_interpolation.Axis(
        'time', before, columns, network.stride[1], network.stride[1]
    )
    looked = (
        position_interpolation.resize
        if same_duration or columns > before
        else position_interpolation.take_first
    )(axis)
    old = np.asarray(jax.device_get(model.params['positions']))
    grid = position_interpolation.interpolate(
        old[SPECIAL_TOKENS:].reshape(rows, before, -1), looked.positions, axis=1
    )
    params = dict(model.params) | {
        'positions': jnp.concatenate([old[:SPECIAL_TOKENS], grid.reshape(rows * columns, -1)])
    }
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    slots = max(1, used.packing.tokens // there.clip_tokens)
    config = dataclasses.replace(
        used,
        frontend=dataclasses.replace(frontend, min_frames=whole, max_frames=whole),
        model=dataclasses.replace(used.model, frames=0),
        packing=dataclasses.replace(used.packing, slots=slots, tokens=slots * there.clip_tokens),
    )
    params = jax.device_put(params, sharding.params_shardings(abstract, mesh))
    return dataclasses.replace(model, network=there, params=params), config

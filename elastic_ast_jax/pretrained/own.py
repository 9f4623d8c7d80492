"""Read weights of this project's own workdirs."""

import os

import jax

from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.pretrained.weights import (
    PretrainedWeights,
    flatten_params,
    group_by_part,
    pop_ast_positions,
    pop_tables,
)


def read_workdir(path: str | os.PathLike) -> PretrainedWeights:
    """Return the weights of a workdir's newest checkpoint, of the moving average if there is one.

    Raises:
        WorkdirError, CheckpointError: See `load_model.load_model`.
    """
    model = load_model(path)
    params = flatten_params(jax.device_get(model.params))
    size, frontend, network = model.network.size, model.config.frontend, model.network
    sources = group_by_part({name: name for name in params})
    if isinstance(network, AST):
        kind, positions = 'an AST', pop_ast_positions(network, params)
    else:
        kind, positions = 'an ElasticAST', pop_tables(params, frontend.mel_bins)
    return PretrainedWeights(
        kind=f'{kind} of this project, {model.description}',
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        patch=(frontend.patch_mels, frontend.patch_frames),
        params=params,
        positions=positions,
        sources=sources,
        labels=model.labels,
        scaled=network.scaled,
        epsilon=network.epsilon,
        frontend=frontend,
    )

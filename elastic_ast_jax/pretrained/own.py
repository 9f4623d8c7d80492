"""Networks that this project already reads:

its own workdirs, published ElasticASTs, and ASTs of Hugging Face.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Float32

from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.models.ast import AST, TOKENS
from elastic_ast_jax.pretrained import ast_hf, elastic_ast_torch
from elastic_ast_jax.pretrained.weights import (
    EPSILON,
    PositionGrid,
    PositionTables,
    PretrainedWeights,
    group_by_part,
    published_heads,
)


def read_workdir(path: str | os.PathLike) -> PretrainedWeights:
    """The model of a workdir: of its newest checkpoint, the moving average if there is one.

    Raises:
        WorkdirError, CheckpointError: As `load_model.load_model`.
    """
    model = load_model(path)
    params = _flat(jax.device_get(model.params))
    size, frontend, network = model.network.size, model.config.frontend, model.network
    sources = group_by_part({name: name for name in params})
    if isinstance(network, AST):
        kind, positions = 'an AST', _grid(network, params)
    else:
        tables = params.pop('positions/freq'), params.pop('positions/time')
        kind, positions = 'an ElasticAST', PositionTables(*tables, frontend.mel_bins)
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


def read_elastic_ast(tensors: Mapping[str, Float32[np.ndarray, '...']]) -> PretrainedWeights:
    """A state dict of the published code.

    Raises:
        LayoutError: Another network's tensors, or too few.
    """
    layout = elastic_ast_torch.infer_layout(
        tensors, heads=1
    )  # which changes no more than how parameters are divided into axes
    params = _flat(elastic_ast_torch.to_params(tensors, layout))
    width, mels = layout.size.width, layout.grid[0] * layout.patch
    return PretrainedWeights(
        kind="an ElasticAST in its authors' names",
        width=width,
        depth=layout.size.depth,
        heads=published_heads(width),
        patch=(layout.patch, layout.patch),
        params=params,
        positions=PositionTables(params.pop('positions/freq'), params.pop('positions/time'), mels),
        sources=group_by_part(
            {row.source: row.targets[0] for row in elastic_ast_torch.tensor_mappings(layout)}
        ),
        scaled=False,
        epsilon=EPSILON,
        notes=(
            (
                'to keep its head, convert it first, with the names of its classes: elastic-ast'
                ' convert elasticast_torch'
            ),
        ),
    )


def read_hugging_face_ast(directory: str | os.PathLike) -> PretrainedWeights:
    """An `ASTForAudioClassification` of transformers.

    Raises:
        AstHfError, TensorFileError: As `ast_hf.load`.
    """
    found = ast_hf.load(directory)
    model, params = found.model, _flat(found.params)
    return PretrainedWeights(
        kind='an AST of Hugging Face',
        width=model.size.width,
        depth=model.size.depth,
        heads=model.size.heads,
        patch=model.patch,
        params=params,
        positions=_grid(model, params),
        sources=group_by_part({row.source: row.targets[0] for row in found.table}),
        labels=found.labels,
        epsilon=model.epsilon,
        frontend=found.frontend,
        notes=found.notes,
    )


def _flat(params: Any) -> dict[str, Float32[np.ndarray, '...']]:
    return {
        name: np.asarray(leaf, np.float32) for name, leaf in flatten_dict(params, sep='/').items()
    }


def _grid(network: AST, params: dict[str, Float32[np.ndarray, '...']]) -> PositionGrid:
    """Takes an AST's positions out of its parameters."""
    whole = params.pop('positions')
    table = whole[TOKENS:].reshape(*network.grid, network.size.width)
    return PositionGrid(table, whole[:TOKENS], network.stride, network.mels)

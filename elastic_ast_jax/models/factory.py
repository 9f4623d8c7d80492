"""Make the network of a configuration, its parameters and the shape of its batches."""

from typing import Any

import jax
import jax.numpy as jnp

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.models.encoder import Constrain, identity
from elastic_ast_jax.packing.batch import BatchShape

Network = ElasticAST | AST


def batch_shape(config: Config, classes: int, rows: int | None = None) -> BatchShape:
    """Return the shape of a batch of `rows` rows, by default the config's."""
    packing = config.packing
    return BatchShape(
        rows=rows or packing.rows,
        tokens=packing.tokens,
        slots=packing.slots,
        patch_size=config.frontend.patch_size,
        classes=classes,
        multi_label=config.train.loss == 'bce',
    )


def make_model(
    config: Config,
    classes: int,
    attend: Attend,
    dtype: Any,
    *,
    scan: bool | None = None,
    constrain: Constrain = identity,
) -> Network:
    """Return the network of a configuration.

    Args:
        config: The configuration.
        classes: C.
        attend: The attention.
        dtype: Of the computation.
        scan: Overrides the config's, which changes no result.
        constrain: See `encoder.Constrain`.
    """
    model, frontend = config.model, config.frontend
    common: dict[str, Any] = dict(
        size=model.resolved_size(),
        classes=classes,
        attend=attend,
        scaled=model.scaled,
        scan=model.scan if scan is None else scan,
        remat=model.remat,
        dtype=dtype,
        epsilon=model.eps,
        constrain=constrain,
        drop_path=model.drop_path,
    )
    if model.kind == 'ast':
        patch = frontend.patch_mels, frontend.patch_frames
        down, along = model.stride
        frames = model.frames or frontend.max_frames
        return AST(
            mels=frontend.mel_bins,
            frames=frames,
            patch=patch,
            stride=(down, along),
            prefix_tokens=model.prefix_tokens,
            **common,
        )
    return ElasticAST(
        grid=(frontend.mel_patches, frontend.max_time_patches),
        pool=model.pool,
        statistics=model.statistics,
        patch_frames=frontend.patch_frames,
        **common,
    )


def without_statistics(network: Network) -> Network:
    """Return the network whose logits are those of the pooled tokens alone."""
    return network.clone(statistics=False) if isinstance(network, ElasticAST) else network


def init_params(network: Network, shape: BatchShape, seed: int) -> Any:
    """Return random parameters, a pure function of the network and the seed."""
    # While this is traced, the batch takes no memory.
    batch = jax.tree.map(lambda field: jnp.zeros(field.shape, field.dtype), shape.abstract())
    return network.init(jax.random.key(seed), batch)['params']

"""Estimate the memory of inference from a config, before a network is built.

A stored config may ask for rows that no machine holds. The memory of a batch is limited by that of
the parameters: large networks are run on large machines, and a small file cannot ask for much.
"""

import math
from typing import Any

import jax

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.models.encoder import MLP_RATIO
from elastic_ast_jax.utils.errors import UserError

__all__ = [
    'MemoryLimitError',
    'batch_bytes',
    'check_batch',
    'params_bytes',
    'rows_within_limit',
]

_FLOAT = 4
# Arrays of a token's width that live at a time: residual, normed, queries, keys, values, output of
# attention with their copies, and the two hidden layers of the MLP.
_WIDTHS = 8 + 2 * MLP_RATIO
# Memory that every model may use on a CPU, and the memory for each byte of parameters.
_ROOM = 512 << 20
_FACTOR = 16


class MemoryLimitError(UserError):
    """Report a batch that takes too much memory, and the keys of its size."""


def params_bytes(params: Any) -> int:
    """Return the bytes of parameters, or of their shapes and dtypes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def batch_bytes(config: Config, classes: int, rows: int | None = None) -> int:
    """Return about the bytes of a batch and of its activations in inference, in float32.

    Args:
        config: The config of the network.
        classes: C.
        rows: Rows of the batch; the config's if None.
    """
    size, packing, front = config.model.resolved_size(), config.packing, config.frontend
    tokens, slots, sequence = packing.tokens, packing.slots, packing.tokens
    quadratic = config.model.attention == 'reference'
    if config.model.kind == 'ast':
        length = _ast_tokens(config)
        sequence, quadratic = slots * length, True
    else:
        length = tokens
    values = tokens * (front.patch_size + 4) + slots * (classes + 8)
    values += sequence * size.width * _WIDTHS
    if quadratic:
        values += 2 * size.heads * sequence * length
    if config.model.kind != 'ast':
        heads = size.heads if config.model.pool == 'attention' else 1
        values += tokens * slots * (2 + heads)  # the members of each slot, and their logits
    return _FLOAT * values * (packing.rows if rows is None else rows)


def _ast_tokens(config: Config) -> int:
    """Return the tokens of a clip of an AST, whose patches may overlap."""
    front, frames = config.frontend, config.model.frames or config.frontend.max_frames
    counts = (
        (length - patch) // max(1, stride) + 1
        for length, patch, stride in zip(
            (front.mel_bins, frames),
            (front.patch_mels, front.patch_frames),
            config.model.stride,
            strict=False,
        )
    )
    return math.prod(counts) + 2


def check_batch(config: Config, classes: int, params: int, rows: int = 1) -> None:
    """Check that a batch of some rows is within the limit.

    Args:
        config: The config of the network.
        classes: C.
        params: Bytes of the parameters.
        rows: Rows of the batch on a device.

    Raises:
        MemoryLimitError: It takes too much memory.
    """
    needed, limit = batch_bytes(config, classes, rows), _limit(params)
    if needed > limit:
        packing = config.packing
        fitting = rows_within_limit(config, classes, params)
        advice = (
            f'set packing.rows={fitting} or less for each device'
            if 0 < fitting < rows
            else 'rows of this size need a larger network, or smaller packing.tokens and'
            ' packing.slots'
        )
        raise MemoryLimitError(
            f'packing.rows={rows}, packing.tokens={packing.tokens}, packing.slots={packing.slots}'
            f' take about {needed >> 20} MiB in a batch, more than the {limit >> 20} MiB that a'
            f' network of {params >> 20} MiB may take: {advice}'
        )


def rows_within_limit(config: Config, classes: int, params: int) -> int:
    """Return the most rows of a batch within the limit; 0 if not even one is."""
    return _limit(params) // batch_bytes(config, classes, 1)


def _limit(params: int) -> int:
    """Return the limit for parameters of so many bytes; an accelerator's memory may be used up."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return max(_ROOM + _FACTOR * params, statistics.get('bytes_limit', 0))

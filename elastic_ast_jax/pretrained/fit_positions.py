"""Fit the positions of pretrained weights to the grid of another network."""

import types
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec, hertz_to_mel
from elastic_ast_jax.models import position_interpolation
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.models.position_interpolation import Axis, AxisLookup
from elastic_ast_jax.pretrained.weights import (
    Geometry,
    Params,
    PositionGrid,
    PositionTables,
    PretrainedWeights,
)

# Prefix tokens of an AST, by their number.
_PREFIX_NAMES = types.MappingProxyType(
    {1: 'the class token', 2: 'the class and distillation token'}
)


class Part(NamedTuple):
    """One part of the network.

    Attributes:
        params: Its parameters.
        origin: For the report.
        sources: The parts of the weights that they are made of.
    """

    params: Params
    origin: str
    sources: tuple[str, ...] = ()


def describe_sources(names: Sequence[str]) -> str:
    """Return the tensors that a part comes from, in words."""
    if len(names) <= 3:
        return f'from {", ".join(names)}'
    return f'from {len(names)} tensors, {names[0]} to {names[-1]}'


def network_geometry(network: ElasticAST | AST, frontend: FrontendSpec) -> Geometry:
    """Return the patches of a network on the spectrograms of a frontend."""
    patch = (frontend.patch_mels, frontend.patch_frames)
    stride = network.stride if isinstance(network, AST) else patch
    return Geometry(frontend.mel_bins, patch, stride, network.grid)


def fit(
    weights: PretrainedWeights, network: ElasticAST | AST, frontend: FrontendSpec, *, quirks: bool
) -> Part:
    """Return positions on a network's grid.

    Args:
        weights: With positions on their own grid.
        network: The network to train.
        frontend: Of its spectrograms.
        quirks: See `initialize.initialize_params`.
    """
    freq, time = _lookups(weights, network, frontend, quirks=quirks)
    origin = (
        f'{describe_sources(weights.sources["positions"])}; {freq.description}; {time.description}'
    )
    old = weights.positions
    if isinstance(network, ElasticAST):
        if isinstance(old, PositionTables):
            tables = _interpolate_tables(old, freq, time)
        else:
            tables = position_interpolation.factorize(
                _interpolate_grid(old, freq, time), quirks=quirks
            )
            origin += '; without those of class tokens' if len(old.tokens) else ''
            origin += '; averaged over time and over frequency' + (
                ", the grid's mean in both, as in the published code"
                if quirks
                else ", half the grid's mean off each"
            )
        params = {'positions/freq': tables[0], 'positions/time': tables[1]}
        return Part(params, origin, ('positions',))
    special = None
    if isinstance(old, PositionTables):
        grid = position_interpolation.sum_tables(*_interpolate_tables(old, freq, time))
        origin += '; frequency and time added'
    else:
        grid = _interpolate_grid(old, freq, time)
        special = prefix_tokens(old.tokens, network.prefix_tokens)
    if special is None or not special.any():
        special = np.zeros((network.prefix_tokens, network.size.width), np.float32)
        origin += f'; 0 for {_PREFIX_NAMES[network.prefix_tokens]}'
    positions = np.concatenate([special, grid.reshape(-1, grid.shape[-1])])
    return Part({'positions': positions}, origin, ('positions',))


def _interpolate_tables(
    old: PositionTables, freq: AxisLookup, time: AxisLookup
) -> tuple[Float32[np.ndarray, 'F D'], Float32[np.ndarray, 'T D']]:
    return (
        position_interpolation.interpolate(old.freq, freq.positions, 0),
        position_interpolation.interpolate(old.time, time.positions, 0),
    )


def _interpolate_grid(
    old: PositionGrid, freq: AxisLookup, time: AxisLookup
) -> Float32[np.ndarray, 'F T D']:
    rows = position_interpolation.interpolate(old.table, freq.positions, 0)
    return position_interpolation.interpolate(rows, time.positions, 1)


def _lookups(
    weights: PretrainedWeights, network: ElasticAST | AST, frontend: FrontendSpec, *, quirks: bool
) -> tuple[AxisLookup, AxisLookup]:
    """Return where the network's frequencies and times lie in the positions of the weights.

    Rows of patches lie at their frequencies where both frontends are known, and otherwise at the
    same share of the mel bins. In weights that were trained on audio, the first position is that of
    a clip's first frame, so a shorter table takes the first ones; with `quirks`, a grid of the same
    stride takes those in the middle, as of an image.
    """
    old, geometry = weights.positions, network_geometry(network, frontend)
    stride = geometry.stride
    old_stride = weights.patch if isinstance(old, PositionTables) else old.stride or stride
    freq, time = (
        Axis(*axis)
        for axis in zip(
            ('frequency', 'time'), old.shape, geometry.grid, old_stride, stride, strict=True
        )
    )
    old_centers = _row_centers(weights.frontend, weights.patch[0], freq.old_stride, freq.old_size)
    centers = _row_centers(frontend, geometry.patch[0], freq.new_stride, freq.new_size)
    if old_centers is not None and centers is not None and not _are_equal(old_centers, centers):
        rows = position_interpolation.align_by_frequency(freq, old_centers, centers)
    elif old.mels and old.mels != geometry.mels:
        rows = position_interpolation.resize(freq)
    elif old_stride[0] == stride[0]:
        rows = position_interpolation.center(freq)
    else:
        rows = position_interpolation.align_by_distance(freq)
    if old_stride[1] != stride[1]:
        return rows, position_interpolation.align_by_distance(time)
    if time.new_size < time.old_size and (
        isinstance(old, PositionTables) or (old.stride and not quirks)
    ):
        return rows, position_interpolation.take_first(time)
    return rows, position_interpolation.center(time)


def _row_centers(
    frontend: FrontendSpec | None, height: int, stride: int, rows: int
) -> Float64[np.ndarray, 'rows'] | None:
    """Return the mean of the filters' centers in mel of each row of patches; None if unknown."""
    if frontend is None or (rows - 1) * stride + height > frontend.mel_bins:
        return None
    mels = hertz_to_mel(fbank.center_frequencies(frontend))
    return np.array([mels[row * stride :][:height].mean() for row in range(rows)])


def _are_equal(old: Float64[np.ndarray, 'old'], new: Float64[np.ndarray, 'new']) -> bool:
    return len(old) == len(new) and np.allclose(old, new)


def prefix_tokens(
    tokens: Float32[np.ndarray, 'K D'], count: int
) -> Float32[np.ndarray, 'count D'] | None:
    """Return the vectors of one or two prefix tokens, from one or two; None from none."""
    if not len(tokens):
        return None
    return np.broadcast_to(tokens[:count], (count, tokens.shape[1]))

"""Initialize a network from pretrained weights, with a report of where every tensor went."""

import dataclasses
import math
import os
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Float32

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.model_sizes import SIZES
from elastic_ast_jax.models import position_interpolation
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.models.position_interpolation import Axis, AxisLookup
from elastic_ast_jax.pretrained import detect
from elastic_ast_jax.pretrained.tensor_map import BLOCKS
from elastic_ast_jax.pretrained.weights import (
    Params,
    PositionGrid,
    PositionTables,
    PretrainedError,
    PretrainedWeights,
)
from elastic_ast_jax.utils.text import join_first, pluralize, printable

# Projections of the attention pooling, and those of the blocks whose mean they start as.
_POOL_PROJECTIONS = types.MappingProxyType(
    {'to_query': 'query', 'key': 'key', 'value': 'value', 'out': 'out'}
)
# Why a part of the weights is not used.
_UNUSED_PARTS = types.MappingProxyType(
    {
        'tokens': 'this model has no class tokens',
        'pool': 'this model pools otherwise',
        'head': 'its classes differ, or have no names',
    }
)
# Settings of the frontend that decide the meaning of a spectrogram's value.
_FEATURES = (
    'kind',
    'sample_rate',
    'window_ms',
    'shift_ms',
    'fft',
    'mel_bins',
    'mean',
    'std',
    'partial',
)
# Prefix tokens of an AST, by their number.
_PREFIX_NAMES = types.MappingProxyType(
    {1: 'the class token', 2: 'the class and distillation token'}
)
# Tensors of a block's attention in the published code, which counts these instead of blocks.
_TENSORS_PER_ATTENTION = 6


class InitializedParams(NamedTuple):
    """The parameters that a network is initialized with.

    Attributes:
        params: By their names with slashes; all others are initialized randomly.
        report: Lines on the weights, the origin of each part, changes, and unused tensors.
    """

    params: Params
    report: tuple[str, ...]


class _Part(NamedTuple):
    """One part of the network.

    Attributes:
        params: Its parameters.
        origin: For the report.
        sources: The parts of the weights that they are made of.
    """

    params: Params
    origin: str
    sources: tuple[str, ...] = ()


def initialize_params(
    path: str | os.PathLike,
    network: ElasticAST | AST,
    abstract: Any,
    labels: Sequence[str],
    frontend: FrontendSpec,
    *,
    quirks: bool,
) -> InitializedParams:
    """Return the parameters that a network is initialized with.

    Args:
        path: Of a file or folder; see `detect.read`.
        network: The network to train.
        abstract: Shapes of its parameters, as of `jax.eval_shape`.
        labels: Names of its classes, in the order of the logits.
        frontend: Of the network's spectrograms.
        quirks: As the published code initializes an ElasticAST: each position table has the grid's
            overall mean in full, the pooling's projections are a sixth of the mean over the blocks,
            and queries are not rescaled if the network scales its attention logits otherwise.

    Raises:
        PretrainedError: Nothing that is recognized, or of another size or patch than the network.
        UserError: See `detect.read`.
    """
    weights = detect.read(path)
    _check_sizes(path, weights, network, frontend)
    leaves: dict[str, Any] = flatten_dict(abstract, sep='/')
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    notes = [*weights.notes, *_notes_on_settings(weights, network)]
    weights, query_notes = _rescale_queries(weights, network, quirks=quirks)
    notes += [*query_notes, *_notes_on_features(weights, frontend)]
    parts = {name: _copy(weights, name) for name in ('embed', 'encoder')}
    parts['positions'] = _positions(weights, network, frontend, quirks=quirks)
    if 'tokens' in shapes:
        parts['tokens'] = _prefix_part(weights, shapes['tokens'][0])
    if 'pool/query' in shapes:
        parts['pool'] = _pool(weights, quirks=quirks)
    parts['norm_head'] = (
        _copy(weights, 'norm_head')
        if 'norm_head/scale' in weights.params
        else _Part({}, 'newly initialized')
    )
    parts['head'] = _head(weights, labels)
    params = {
        name: np.ascontiguousarray(array, np.float32).reshape(shapes[name])
        for part in parts.values()
        for name, array in part.params.items()
    }
    used_parts = {name for part in parts.values() for name in part.sources}
    lines = [
        f'{os.fspath(path)}: {weights.kind}, {_describe(weights)}',
        *(f'note: {note}' for note in notes),
        *(f'{name}: {part.origin}' for name, part in parts.items()),
        *_unused_lines(weights, used_parts),
    ]
    return InitializedParams(params, tuple(map(printable, lines)))


def _check_sizes(
    path: str | os.PathLike,
    weights: PretrainedWeights,
    network: ElasticAST | AST,
    frontend: FrontendSpec,
) -> None:
    """Refuse weights of another size or patch."""
    problems = []
    theirs = {'width': weights.width, 'depth': weights.depth}
    if weights.heads:
        theirs['heads'] = weights.heads
    ours = {key: getattr(network.size, key) for key in theirs}
    if theirs != ours:
        setting = ' '.join(f'--config.model.{key}={value}' for key, value in theirs.items())
        for name, size in SIZES.items():
            if dataclasses.asdict(size) == theirs:
                setting = f'--config.model.size={name}, or {setting}'
                break
        problems.append(
            f'has {_join_items(theirs)}, and this model {_join_items(ours)}: set {setting}'
        )
    patch = frontend.patch_mels, frontend.patch_frames
    if weights.patch != patch:
        problems.append(
            f'has patches of {weights.patch[0]} x {weights.patch[1]}, and this model of'
            f' {patch[0]} x {patch[1]}: take weights for these, or set'
            f' --config.frontend.patch_mels={weights.patch[0]}'
            f' --config.frontend.patch_frames={weights.patch[1]}'
        )
    if problems:
        raise PretrainedError(
            '\n'.join(f'{os.fspath(path)}: {weights.kind} {problem}' for problem in problems)
        )


def _notes_on_settings(weights: PretrainedWeights, network: ElasticAST | AST) -> list[str]:
    """Return notes on heads that are assumed and on LayerNorms that differ."""
    notes = []
    if not weights.heads:
        notes.append(
            f'the shapes do not show the number of heads: {network.size.heads} are assumed, as this'
            ' model has'
        )
    if weights.epsilon and weights.epsilon != network.epsilon:
        notes.append(
            f'LayerNorms have epsilon {weights.epsilon:g} in the weights and {network.epsilon:g}'
            f' in this model: --config.model.eps={weights.epsilon:g} makes them alike'
        )
    return notes


def _rescale_queries(
    weights: PretrainedWeights, network: ElasticAST | AST, *, quirks: bool
) -> tuple[PretrainedWeights, list[str]]:
    """Return the weights with queries for this network's attention, and notes on the change."""
    if weights.scaled == network.scaled:
        return weights, []
    width = network.size.width // network.size.heads
    ours, theirs = (
        f'{"" if scaled else "not "}divided by sqrt({width})'
        for scaled in (network.scaled, weights.scaled)
    )
    difference = f'attention logits are {ours} in this model and {theirs} in the weights'
    if quirks:
        return weights, [
            f'{difference}: queries are not changed, as in the published code, and attention'
            ' differs'
        ]
    factor = np.float32(math.sqrt(width) if network.scaled else 1 / math.sqrt(width))
    params = {
        name: array * factor if '/query/' in name or '/to_query/' in name else array
        for name, array in weights.params.items()
    }
    return dataclasses.replace(weights, params=params), [
        f'{difference}: queries are {"multiplied" if network.scaled else "divided"} by it, so'
        ' that attention is the same'
    ]


def _notes_on_features(weights: PretrainedWeights, frontend: FrontendSpec) -> list[str]:
    """Return a note on spectrograms that differ."""
    if weights.frontend is None:
        return []
    pairs = {key: (getattr(weights.frontend, key), getattr(frontend, key)) for key in _FEATURES}
    differences = [
        f'{key} {theirs} in the weights and {ours} in this model'
        for key, (theirs, ours) in pairs.items()
        if theirs != ours
    ]
    return [f'features differ: {", ".join(differences)}'] if differences else []


def _copy(weights: PretrainedWeights, part: str) -> _Part:
    """Return a part as it is in the weights."""
    params = {name: array for name, array in weights.params.items() if name.startswith(f'{part}/')}
    return _Part(params, _origin(weights.sources[part]), (part,))


def _origin(names: Sequence[str]) -> str:
    """Return the tensors that a part comes from, in words."""
    if len(names) <= 3:
        return f'from {", ".join(names)}'
    return f'from {len(names)} tensors, {names[0]} to {names[-1]}'


def _positions(
    weights: PretrainedWeights, network: ElasticAST | AST, frontend: FrontendSpec, *, quirks: bool
) -> _Part:
    """Return positions on this network's grid."""
    stride = (
        network.stride if isinstance(network, AST) else (frontend.patch_mels, frontend.patch_frames)
    )
    freq, time = _lookups(weights, network.grid, stride, frontend.mel_bins, quirks=quirks)
    origin = f'{_origin(weights.sources["positions"])}; {freq.description}; {time.description}'
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
        return _Part(params, origin, ('positions',))
    special = None
    if isinstance(old, PositionTables):
        grid = position_interpolation.sum_tables(*_interpolate_tables(old, freq, time))
        origin += '; frequency and time added'
    else:
        grid = _interpolate_grid(old, freq, time)
        special = _prefix_tokens(old.tokens, network.prefix_tokens)
    if special is None or not special.any():
        special = np.zeros((network.prefix_tokens, network.size.width), np.float32)
        origin += f'; 0 for {_PREFIX_NAMES[network.prefix_tokens]}'
    positions = np.concatenate([special, grid.reshape(-1, grid.shape[-1])])
    return _Part({'positions': positions}, origin, ('positions',))


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
    weights: PretrainedWeights,
    grid: tuple[int, int],
    stride: tuple[int, int],
    mels: int,
    *,
    quirks: bool,
) -> tuple[AxisLookup, AxisLookup]:
    """Return where the network's frequencies and times lie in the positions of the weights.

    Rows of patches on another number of mel bins lie at the same frequencies where they lie at the
    same share of the bins. In weights that were trained on audio, the first position is that of a
    clip's first frame, so a shorter table takes the first ones; with `quirks`, a grid of the same
    stride takes those in the middle, as of an image.
    """
    old = weights.positions
    old_stride = weights.patch if isinstance(old, PositionTables) else old.stride or stride
    freq, time = (
        Axis(*axis)
        for axis in zip(('frequency', 'time'), old.shape, grid, old_stride, stride, strict=True)
    )
    if old.mels and old.mels != mels:
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


def _prefix_part(weights: PretrainedWeights, count: int) -> _Part:
    """Return the prefix tokens."""
    tokens = weights.params.get('tokens')
    special = None if tokens is None else _prefix_tokens(tokens, count)
    if tokens is None or special is None:
        return _Part({}, 'newly initialized')
    origin = _origin(weights.sources['tokens'])
    if len(tokens) < count:
        origin += ', the one class token for both'
    elif len(tokens) > count:
        origin += ', the class token alone, as in the published code'
    return _Part({'tokens': special}, origin, ('tokens',))


def _prefix_tokens(
    tokens: Float32[np.ndarray, 'K D'], count: int
) -> Float32[np.ndarray, 'count D'] | None:
    """Return the vectors of one or two prefix tokens, from one or two; None from none."""
    if not len(tokens):
        return None
    return np.broadcast_to(tokens[:count], (count, tokens.shape[1]))


def _pool(weights: PretrainedWeights, *, quirks: bool) -> _Part:
    """Return the attention pooling."""
    if 'pool/query' in weights.params:
        return _copy(weights, 'pool')
    divisor = weights.depth * (_TENSORS_PER_ATTENTION if quirks else 1)
    params = {}
    for ours, theirs in _POOL_PROJECTIONS.items():
        for leaf in ('kernel', 'bias'):
            stack = weights.params[f'{BLOCKS}/attention/{theirs}/{leaf}']
            params[f'pool/{ours}/{leaf}'] = (stack.sum(axis=0, dtype=np.float64) / divisor).astype(
                np.float32
            )
    published = f', divided by {_TENSORS_PER_ATTENTION} as in the published code' if quirks else ''
    return _Part(
        params,
        f"projections from the mean over the {weights.depth} blocks'{published}; the query is newly"
        ' initialized',
    )


def _head(weights: PretrainedWeights, labels: Sequence[str]) -> _Part:
    """Return the head, if it has the same classes."""
    ours = f'newly initialized: this model has {pluralize(len(labels), "class", "classes")}'
    if 'head/kernel' not in weights.params:
        return _Part({}, ours)
    theirs = weights.labels
    count = weights.params['head/kernel'].shape[-1]
    if theirs is None:
        return _Part({}, f'{ours}, the weights have {count} without names')
    old, new = sorted(set(theirs) - set(labels)), sorted(set(labels) - set(theirs))
    if old or new or len(theirs) != len(labels):
        return _Part(
            {},
            f'{ours}, the weights have {count} (only in the weights:'
            f' {join_first(old, 3) or "none"}; only in this model: {join_first(new, 3) or "none"})',
        )
    order = [theirs.index(name) for name in labels]
    params = {
        f'head/{leaf}': weights.params[f'head/{leaf}'][..., order] for leaf in ('kernel', 'bias')
    }
    reordered = '' if order == sorted(order) else ', in the order of this model'
    origin = f'{_origin(weights.sources["head"])}, the same {count} classes{reordered}'
    return _Part(params, origin, ('head',))


def _unused_lines(weights: PretrainedWeights, used_parts: set[str]) -> list[str]:
    """Return lines on the tensors that are not used, by the reason."""
    reasons = dict(weights.unused)
    for part, names in weights.sources.items():
        if part not in used_parts:
            reasons |= dict.fromkeys(names, _UNUSED_PARTS[part])
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    return [f'not used: {join_first(names, 24)} ({reason})' for reason, names in groups.items()]


def _join_items(values: Mapping[str, int]) -> str:
    return ', '.join(f'{key} {value}' for key, value in values.items())


def _describe(weights: PretrainedWeights) -> str:
    rows, columns = weights.positions.shape
    heads = f', {weights.heads} heads' if weights.heads else ''
    return (
        f'width {weights.width}, {pluralize(weights.depth, "block")}{heads}, patches of'
        f' {weights.patch[0]} x {weights.patch[1]}, {rows} x {columns} positions'
    )

"""Initialize a network from pretrained weights, with a report of where every tensor went."""

import dataclasses
import math
import os
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.model_sizes import SIZES
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.pretrained import detect, fit_positions
from elastic_ast_jax.pretrained.fit_positions import Part, describe_sources
from elastic_ast_jax.pretrained.tensor_map import BLOCKS
from elastic_ast_jax.pretrained.weights import (
    Params,
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
        'statistics': 'it is fitted to the training clips',
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
    'f_min',
    'f_max',
    'mean',
    'std',
    'partial',
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
    weights = detect.read(path, fit_positions.network_geometry(network, frontend))
    return initialize_from(weights, path, network, abstract, labels, frontend, quirks=quirks)


def initialize_from(
    weights: PretrainedWeights,
    path: str | os.PathLike,
    network: ElasticAST | AST,
    abstract: Any,
    labels: Sequence[str],
    frontend: FrontendSpec,
    *,
    quirks: bool = False,
) -> InitializedParams:
    """Return the parameters that a network is initialized with, from weights that are read.

    Args:
        weights: The weights.
        path: Where they are from, for the report.
        network: See `initialize_params`, also of the following.
        abstract: Shapes of the parameters.
        labels: Names of the classes.
        frontend: Of the network's spectrograms.
        quirks: As the published code initializes an ElasticAST.

    Raises:
        PretrainedError: See `initialize_params`.
    """
    _check_sizes(path, weights, network, frontend)
    leaves: dict[str, Any] = flatten_dict(abstract, sep='/')
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    notes = [*weights.notes, *_notes_on_settings(weights, network)]
    weights, query_notes = _rescale_queries(weights, network, quirks=quirks)
    notes += [*query_notes, *_notes_on_features(weights, frontend)]
    parts = {name: _copy(weights, name) for name in ('embed', 'encoder')}
    parts['positions'] = fit_positions.fit(weights, network, frontend, quirks=quirks)
    if 'tokens' in shapes:
        parts['tokens'] = _prefix_part(weights, shapes['tokens'][0])
    if 'pool/query' in shapes:
        parts['pool'] = _pool(weights, quirks=quirks)
    parts['norm_head'] = (
        _copy(weights, 'norm_head')
        if 'norm_head/scale' in weights.params
        else Part({}, 'newly initialized')
    )
    parts['head'] = _head(weights, labels)
    params = {
        name: np.ascontiguousarray(array, np.float32).reshape(shapes[name])
        for part in parts.values()
        for name, array in part.params.items()
    }
    if wrong := [name for name, array in params.items() if not np.isfinite(array).all()]:
        raise PretrainedError(
            f'{os.fspath(path)}: {join_first(wrong, 3)} would not be finite in float32: the weights'
            ' are too large, or damaged'
        )
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


def _copy(weights: PretrainedWeights, part: str) -> Part:
    """Return a part as it is in the weights."""
    params = {name: array for name, array in weights.params.items() if name.startswith(f'{part}/')}
    return Part(params, describe_sources(weights.sources[part]), (part,))


def _prefix_part(weights: PretrainedWeights, count: int) -> Part:
    """Return the prefix tokens."""
    tokens = weights.params.get('tokens')
    special = None if tokens is None else fit_positions.prefix_tokens(tokens, count)
    if tokens is None or special is None:
        return Part({}, 'newly initialized')
    origin = describe_sources(weights.sources['tokens'])
    if len(tokens) < count:
        origin += ', the one class token for both'
    elif len(tokens) > count:
        origin += ', the class token alone, as in the published code'
    return Part({'tokens': special}, origin, ('tokens',))


def _pool(weights: PretrainedWeights, *, quirks: bool) -> Part:
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
    return Part(
        params,
        f"projections from the mean over the {weights.depth} blocks'{published}; the query is newly"
        ' initialized',
    )


def _head(weights: PretrainedWeights, labels: Sequence[str]) -> Part:
    """Return the head, if it has the same classes."""
    ours = f'newly initialized: this model has {pluralize(len(labels), "class", "classes")}'
    if 'head/kernel' not in weights.params:
        return Part({}, ours)
    theirs = weights.labels
    count = weights.params['head/kernel'].shape[-1]
    if theirs is None:
        return Part({}, f'{ours}, the weights have {count} without names')
    old, new = sorted(set(theirs) - set(labels)), sorted(set(labels) - set(theirs))
    if old or new or len(theirs) != len(labels):
        return Part(
            {},
            f'{ours}, the weights have {count} (only in the weights:'
            f' {join_first(old, 3) or "none"}; only in this model: {join_first(new, 3) or "none"})',
        )
    order = [theirs.index(name) for name in labels]
    params = {
        f'head/{leaf}': weights.params[f'head/{leaf}'][..., order] for leaf in ('kernel', 'bias')
    }
    reordered = '' if order == sorted(order) else ', in the order of this model'
    origin = f'{describe_sources(weights.sources["head"])}, the same {count} classes{reordered}'
    return Part(params, origin, ('head',))


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

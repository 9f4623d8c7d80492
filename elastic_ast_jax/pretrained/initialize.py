"""From a starting point to the first parameters of a network, and a report of where everything
went.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Float32

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.model_sizes import SIZES
from elastic_ast_jax.models import position_interpolation
from elastic_ast_jax.models.ast import AST, TOKENS
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.models.position_interpolation import Axis, AxisLookup
from elastic_ast_jax.pretrained import detect
from elastic_ast_jax.pretrained.weights import (
    PositionGrid,
    PositionTables,
    PretrainedError,
    PretrainedWeights,
)
from elastic_ast_jax.utils.text import counted, printable, some

Params = dict[str, Float32[np.ndarray, '...']]

# Projections of the attention pooling, and those of the blocks that their mean is taken of.
_PROJECTIONS = {'to_query': 'query', 'key': 'key', 'value': 'value', 'out': 'out'}
# Why a part that a donor has is not used.
_WITHOUT = {
    'tokens': 'this model has no class tokens',
    'pool': 'this model pools otherwise',
    'head': 'its classes are others, or have no names',
}
# What decides what a value of a spectrogram means.
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
# Tensors of a block's attention in the published code, all of which it counts when it means to
# count blocks.
_COUNTED = 6


class InitializedParams(NamedTuple):
    """What a network starts with.

    Attributes:
        params: By their names with slashes; those that are not here start as they would without a
        starting point.
        report: Lines for a reader: what was found, where it went, what was changed, what is not
        used, what starts anew.
    """

    params: Params
    report: tuple[str, ...]


class _Part(NamedTuple):
    """Parameters of one part of the network, what to say of them, and the donor's parts that they
    are made of.
    """

    params: Params
    said: str
    used: tuple[str, ...] = ()


def initialize_params(
    path: str | os.PathLike,
    network: ElasticAST | AST,
    abstract: Any,
    labels: Sequence[str],
    quirks: bool,
    frontend: FrontendSpec,
) -> InitializedParams:
    """The parameters that a network starts with.

    Args:
        path: Of a file or folder; see `detect.read`.
        network: What will be trained.
        abstract: Its parameters' shapes, as of `jax.eval_shape`.
        labels: Names of its classes, in the order of the logits.
        quirks: As the published code starts an ElasticAST: each position table has the grid's
            overall mean in full, the pooling's projections are a sixth of the mean over the blocks,
            and a network whose attention logits are scaled otherwise than the donor's takes its
            queries as they are.
        frontend: What it hears.

    Raises:
        PretrainedError: Nothing that is recognised, or of another size or patch than the network.
        UserError: As `detect.read`.
    """
    donor = detect.read(path)
    _check(path, donor, network, frontend)
    shapes = {name: tuple(leaf.shape) for name, leaf in flatten_dict(abstract, sep='/').items()}
    donor, notes = _fitted(donor, network, quirks, frontend)
    parts = {name: _same(donor, name) for name in ('embed', 'encoder')}
    parts['positions'] = _positions(donor, network, quirks, frontend)
    if 'tokens' in shapes:
        parts['tokens'] = _tokens(donor)
    if 'pool/query' in shapes:
        parts['pool'] = _pool(donor, quirks)
    parts['norm_head'] = (
        _same(donor, 'norm_head') if 'norm_head/scale' in donor.params else _Part({}, 'starts anew')
    )
    parts['head'] = _head(donor, labels)
    params = {
        name: np.ascontiguousarray(array, np.float32).reshape(shapes[name])
        for part in parts.values()
        for name, array in part.params.items()
    }
    used = {group for part in parts.values() for group in part.used}
    lines = [
        f'{os.fspath(path)}: {donor.kind}, {_described(donor)}',
        *(f'note: {note}' for note in (*donor.notes, *notes)),
        *(f'{name}: {part.said}' for name, part in parts.items()),
        *_not_used(donor, used),
    ]
    return InitializedParams(params, tuple(map(printable, lines)))


def _check(
    path: str | os.PathLike,
    donor: PretrainedWeights,
    network: ElasticAST | AST,
    frontend: FrontendSpec,
) -> None:
    """Refuses a donor of another size or patch."""
    problems = []
    there = {'width': donor.width, 'depth': donor.depth} | (
        {'heads': donor.heads} if donor.heads else {}
    )
    here = {key: getattr(network.size, key) for key in there}
    if there != here:
        name = next(
            (name for name, known in SIZES.items() if dataclasses.asdict(known) == there), None
        )
        keys = [f'--config.model.{key}={value}' for key, value in there.items()]
        setting = f'--config.model.size={name}, or {" ".join(keys)}' if name else ' '.join(keys)
        problems.append(f'has {_listed(there)}, and this model {_listed(here)}: set {setting}')
    patch = frontend.patch_mels, frontend.patch_frames
    if donor.patch != patch:
        problems.append(
            f'has patches of {donor.patch[0]} x {donor.patch[1]}, and this model of {patch[0]} x'
            f' {patch[1]}: take weights for these, or set'
            f' --config.frontend.patch_mels={donor.patch[0]}'
            f' --config.frontend.patch_frames={donor.patch[1]}'
        )
    if problems:
        raise PretrainedError(
            '\n'.join(f'{os.fspath(path)}: {donor.kind} {problem}' for problem in problems)
        )


def _fitted(
    donor: PretrainedWeights, network: ElasticAST | AST, quirks: bool, frontend: FrontendSpec
) -> tuple[PretrainedWeights, list[str]]:
    """The donor with queries for this network's attention, and notes on what else differs."""
    notes = []
    if not donor.heads:
        notes.append(
            f'no shape tells the number of heads: {network.size.heads} are assumed, as this'
            ' model has'
        )
    if donor.epsilon and donor.epsilon != network.epsilon:
        notes.append(
            f'LayerNorms have epsilon {donor.epsilon:g} there and {network.epsilon:g} here: '
            f'--config.model.eps={donor.epsilon:g} makes them alike'
        )
    if donor.scaled != network.scaled:
        width = network.size.width // network.size.heads
        here, there = (
            f'{"" if scaled else "not "}divided by sqrt({width})'
            for scaled in (network.scaled, donor.scaled)
        )
        differ = f'attention logits are {here} here and {there} there'
        if quirks:
            notes.append(
                f'{differ}: queries are taken as they are, as in the published code, and attention'
                ' differs'
            )
        else:
            factor = np.float32(math.sqrt(width) if network.scaled else 1 / math.sqrt(width))
            params = {
                name: array * factor if '/query/' in name or '/to_query/' in name else array
                for name, array in donor.params.items()
            }
            donor = dataclasses.replace(donor, params=params)
            notes.append(
                f'{differ}: queries are {"multiplied" if network.scaled else "divided"} by it, so'
                ' that attention is the same'
            )
    if donor.frontend is not None:
        pairs = {key: (getattr(donor.frontend, key), getattr(frontend, key)) for key in _FEATURES}
        if other := [
            f'{key} {there} there and {here} here'
            for key, (there, here) in pairs.items()
            if there != here
        ]:
            notes.append(f'features differ: {", ".join(other)}')
    return donor, notes


def _same(donor: PretrainedWeights, part: str) -> _Part:
    """A part as the donor has it."""
    params = {name: array for name, array in donor.params.items() if name.startswith(f'{part}/')}
    return _Part(params, _from(donor.sources[part]), (part,))


def _from(names: Sequence[str]) -> str:
    """Where something comes from, in words."""
    if len(names) <= 3:
        return f'from {", ".join(names)}'
    return f'from {len(names)} tensors, {names[0]} to {names[-1]}'


def _positions(
    donor: PretrainedWeights, network: ElasticAST | AST, quirks: bool, frontend: FrontendSpec
) -> _Part:
    """Positions on this network's grid."""
    stride = (
        network.stride if isinstance(network, AST) else (frontend.patch_mels, frontend.patch_frames)
    )
    freq, time = _looked(donor, network.grid, stride, frontend.mel_bins, quirks)
    said = f'{_from(donor.sources["positions"])}; {freq.description}; {time.description}'
    old = donor.positions
    if isinstance(old, PositionTables):
        pair = (
            position_interpolation.interpolate(old.freq, freq.positions, 0),
            position_interpolation.interpolate(old.time, time.positions, 0),
        )
    else:
        grid = position_interpolation.interpolate(
            position_interpolation.interpolate(old.table, freq.positions, 0), time.positions, 1
        )
    if isinstance(network, ElasticAST):
        if isinstance(old, PositionGrid):
            pair = position_interpolation.factorize(grid, quirks)
            said += '; without those of class tokens' if len(old.tokens) else ''
            said += '; averaged over time and over frequency' + (
                ", the grid's mean in both, as in the published code"
                if quirks
                else ", half the grid's mean off each"
            )
        return _Part({'positions/freq': pair[0], 'positions/time': pair[1]}, said, ('positions',))
    if isinstance(old, PositionTables):
        grid = position_interpolation.sum_tables(*pair)
        said += '; frequency and time added'
    special = _doubled(old.tokens) if isinstance(old, PositionGrid) else None
    if special is None or not special.any():
        special = np.zeros((TOKENS, network.size.width), np.float32)
        said += '; 0 for the class and distillation token'
    whole = np.concatenate([special, grid.reshape(-1, grid.shape[-1])])
    return _Part({'positions': whole}, said, ('positions',))


def _looked(
    donor: PretrainedWeights,
    grid: tuple[int, int],
    stride: tuple[int, int],
    mels: int,
    quirks: bool,
) -> tuple[AxisLookup, AxisLookup]:
    """Where frequency and time are looked up in the donor's positions.

    Rows of patches on another number of mel bins lie at the same frequencies where they lie at the
    same share of the bins. What was trained on sound has a clip's first frame at its first
    position, so a shorter table takes the first ones; with `quirks`, a grid of the same stride
    those in the middle, as of an image.
    """
    old = donor.positions
    if isinstance(old, PositionTables):
        there, stride_there = (len(old.freq), len(old.time)), donor.patch
    else:
        there, stride_there = old.table.shape[:2], old.stride or stride
    freq, time = (
        Axis(*axis)
        for axis in zip(('frequency', 'time'), there, grid, stride_there, stride, strict=True)
    )
    if old.mels and old.mels != mels:
        rows = position_interpolation.resize(freq)
    else:
        rows = (
            position_interpolation.center(freq)
            if stride_there[0] == stride[0]
            else position_interpolation.align_by_distance(freq)
        )
    if stride_there[1] != stride[1]:
        return rows, position_interpolation.align_by_distance(time)
    if time.new_size < time.old_size and (
        isinstance(old, PositionTables) or (old.stride and not quirks)
    ):
        return rows, position_interpolation.take_first(time)
    return rows, position_interpolation.center(time)


def _tokens(donor: PretrainedWeights) -> _Part:
    """The class and the distillation token."""
    if 'tokens' not in donor.params:
        return _Part({}, 'start anew')
    tokens, names = donor.params['tokens'], donor.sources['tokens']
    said = _from(names) + ('' if len(tokens) == TOKENS else ', the one class token for both')
    return _Part({'tokens': _doubled(tokens)}, said, ('tokens',))


def _doubled(tokens: Float32[np.ndarray, 'K D']) -> Float32[np.ndarray, 'two D'] | None:
    """Vectors of both tokens, of two or of the one; None of none."""
    return np.broadcast_to(tokens, (TOKENS, tokens.shape[1])) if len(tokens) else None


def _pool(donor: PretrainedWeights, quirks: bool) -> _Part:
    """The attention pooling."""
    if 'pool/query' in donor.params:
        return _same(donor, 'pool')
    divisor = donor.depth * (_COUNTED if quirks else 1)
    params = {}
    for ours, theirs in _PROJECTIONS.items():
        for leaf in ('kernel', 'bias'):
            stack = donor.params[f'encoder/blocks/attention/{theirs}/{leaf}']
            params[f'pool/{ours}/{leaf}'] = (stack.sum(axis=0, dtype=np.float64) / divisor).astype(
                np.float32
            )
    part = f', divided by {_COUNTED} as in the published code' if quirks else ''
    return _Part(
        params,
        f"projections from the mean over the {donor.depth} blocks'{part}; the query starts anew",
    )


def _head(donor: PretrainedWeights, labels: Sequence[str]) -> _Part:
    """The head, if it tells the same classes."""
    if 'head/kernel' not in donor.params:
        return _Part({}, f'{counted(len(labels), "class", "classes")} here: starts anew')
    there = donor.labels
    count = donor.params['head/kernel'].shape[-1]
    if there is None:
        return _Part(
            {},
            f'{counted(len(labels), "class", "classes")} here, {count} without names there: starts'
            ' anew',
        )
    gone, new = sorted(set(there) - set(labels)), sorted(set(labels) - set(there))
    if gone or new or len(there) != len(labels):
        names = f'only there: {some(gone, 3) or "none"}; only here: {some(new, 3) or "none"}'
        return _Part(
            {},
            f'{counted(len(labels), "class", "classes")} here, {count} there ({names}): starts'
            ' anew',
        )
    order = [there.index(name) for name in labels]
    params = {
        f'head/{leaf}': donor.params[f'head/{leaf}'][..., order] for leaf in ('kernel', 'bias')
    }
    moved = '' if order == sorted(order) else ', in the order of the classes here'
    return _Part(
        params, f'{_from(donor.sources["head"])}, the same {count} classes{moved}', ('head',)
    )


def _not_used(donor: PretrainedWeights, used: set[str]) -> list[str]:
    """Lines on the tensors that nothing was made of, by the reason."""
    why = dict(donor.unused)
    for group, names in donor.sources.items():
        if group not in used:
            why |= dict.fromkeys(names, _WITHOUT[group])
    reasons: dict[str, list[str]] = {}
    for name, reason in why.items():
        reasons.setdefault(reason, []).append(name)
    return [f'not used: {some(names, 24)} ({reason})' for reason, names in reasons.items()]


def _listed(values: Mapping[str, int]) -> str:
    return ', '.join(f'{key} {value}' for key, value in values.items())


def _described(donor: PretrainedWeights) -> str:
    old = donor.positions
    rows, columns = (
        (len(old.freq), len(old.time)) if isinstance(old, PositionTables) else old.table.shape[:2]
    )
    heads = f', {donor.heads} heads' if donor.heads else ''
    return (
        f'width {donor.width}, {counted(donor.depth, "block")}{heads}, patches of {donor.patch[0]}'
        f' x {donor.patch[1]}, {rows} x {columns} positions'
    )

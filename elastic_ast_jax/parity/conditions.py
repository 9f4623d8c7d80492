"""The ways for clips through a model that must give the same logits: rows, their arrangement,
attention, devices.

Rows pass one at a time, or one on each device: there are few of them, and a batch of more would be
padding.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from elastic_ast_jax.checkpointing.load_model import LoadedModel
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.models import factory
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape, PackedBatch

__all__ = ['DEVICES', 'Logits', 'ModelRunner', 'Patches', 'Condition', 'noise_clips', 'conditions']

# Most devices; a processor shows so many virtual ones.
DEVICES = 8
# Lengths of rows that just fit: each costs a compilation, and of more lengths, some rows have a
# little room.
_MOST_LENGTHS = 6
_ARRANGEMENTS = 3
# About the deviation of normalised log-mels.
_NOISE = 0.5

Patches = Float32[np.ndarray, '_ P']
Logits = Float32[np.ndarray, '_ C']


@dataclasses.dataclass(frozen=True)
class Condition:
    """One way for clips through the model: rows, their arrangement, attention, devices."""

    shape: BatchShape
    rows: Sequence[Sequence[int]]
    attend: Attend | None = None
    devices: int = 1


def conditions(
    model: LoadedModel,
    company: Sequence[Patches],
    count: int,
    random: np.random.Generator,
    attends: Mapping[str, Attend],
) -> Iterator[tuple[str, Condition]]:
    """Every condition, and what it is; the first `count` of the company are judged."""
    lengths = [len(patch) for patch in company]
    base = _shape(model, 1.0, max(lengths))
    yield f'alone, padded to {base.tokens} tokens', Condition(base, [[i] for i in range(count)])
    for number in range(_ARRANGEMENTS):
        yield (
            f'random company, arrangement {number + 1}',
            Condition(base, _arranged(lengths, base, random)),
        )
    for share in (0.5, 1.5, 2.0):
        shape = _shape(model, share, max(lengths))
        if shape.tokens != base.tokens:
            yield (
                f'rows of {shape.tokens} tokens',
                Condition(shape, _arranged(lengths, shape, random)),
            )
    for name, attend in attends.items():
        yield f'attention: {name}', Condition(base, _arranged(lengths, base, random), attend)
    devices = 2
    while devices <= min(DEVICES, jax.device_count()):
        several = dataclasses.replace(base, rows=devices)
        yield (
            f'{devices} devices',
            Condition(several, _arranged(lengths, base, random), devices=devices),
        )
        devices *= 2


def _arranged(
    lengths: Sequence[int], shape: BatchShape, random: np.random.Generator
) -> list[list[int]]:
    """Rows of the clips in a random order."""
    order = random.permutation(len(lengths))
    rows = packer.pack([lengths[i] for i in order], shape.tokens, shape.slots)
    return [[int(order[i]) for i in row] for row in rows]


def _shape(model: LoadedModel, share: float, longest: int) -> BatchShape:
    """A row of about this share of the config's; AST's hold as many clips as they have slots."""
    shape = factory.batch_shape(model.config, len(model.labels), rows=1)
    tokens = max(longest, int(shape.tokens * share))
    if isinstance(model.network, AST):
        slots = max(1, tokens // longest)
        return dataclasses.replace(shape, tokens=slots * longest, slots=slots)
    return dataclasses.replace(shape, tokens=tokens)


def _fitting(model: LoadedModel, length: int) -> BatchShape:
    """One row that one clip fills."""
    return dataclasses.replace(
        factory.batch_shape(model.config, len(model.labels), rows=1), tokens=length, slots=1
    )


def _lengths(company: Sequence[Patches]) -> Int[np.ndarray, '_']:
    """Tokens of the row that each clip is alone in:

    its own, or the next of a few if there are many lengths.
    """
    own = np.array([len(patch) for patch in company])
    different = np.unique(own)
    if len(different) > _MOST_LENGTHS:
        different = different[
            np.linspace(0, len(different) - 1, _MOST_LENGTHS + 1).round().astype(int)[1:]
        ]
    return different[np.searchsorted(different, own)]


def noise_clips(
    model: LoadedModel, patches: Sequence[Patches], random: np.random.Generator
) -> list[Patches]:
    """As many clips of noise as there are clips, of the lengths that the model takes."""
    frontend = model.config.frontend
    most = frontend.max_time_patches
    fewest = max(1, frontend.min_frames // frontend.patch_frames)
    columns = random.integers(fewest, most, size=max(2, len(patches)), endpoint=True)
    return [
        _NOISE
        * random.standard_normal((frontend.mel_patches * int(n), frontend.patch_size), np.float32)
        for n in columns
    ]


class ModelRunner:
    """Clips on their way through the model."""

    def __init__(self, model: LoadedModel, company: Sequence[Patches]):
        self._model, self._company = model, company
        self._network = model.network.clone(dtype=jnp.dtype('float32'))

    def alone(self, numbers: Sequence[int], params: Any = None) -> Logits:
        """Of these clips, each alone in a row that just fits, by plain attention;

        by other parameters if given.
        """
        scores = np.zeros((len(numbers), len(self._model.labels)), np.float32)
        own = _lengths([self._company[i] for i in numbers])
        for length in np.unique(own):
            places = np.flatnonzero(own == length)
            setting = Condition(
                _fitting(self._model, int(length)),
                [[numbers[place]] for place in places],
                interface.reference,
            )
            scores[places] = self.logits(setting, params)[[numbers[place] for place in places]]
        return scores

    def logits(self, setting: Condition, params: Any = None) -> Logits:
        """Of all clips; NaN of those that are in no row."""
        params = self._model.params if params is None else params
        network = self._network.clone(attend=setting.attend or self._network.attend)
        step = functools.partial(_apply, network)
        if setting.devices > 1:
            mesh = sharding.make_mesh(jax.devices()[: setting.devices])
            network = network.clone(attend=sharding.sharded_attention(network.attend, mesh))
            step = sharding.jit_eval_step(functools.partial(_apply, network), mesh)
            params = jax.device_put(params, sharding.replicated(mesh))
        scores = np.full((len(self._company), len(self._model.labels)), np.nan, np.float32)
        for first in range(0, len(setting.rows), setting.shape.rows):
            rows = setting.rows[first : first + setting.shape.rows]
            batch = packer.fill_batch(
                rows, self._company, self._model.config.frontend.mel_patches, setting.shape
            )
            logits = np.asarray(step(params, batch))
            scores[batch.clip_id[batch.valid]] = logits[batch.valid]
        return scores


@functools.partial(jax.jit, static_argnums=0)
def _apply(network: factory.Network, params: Any, batch: PackedBatch) -> Float[Array, 'R S C']:
    return network.apply({'params': params}, batch)

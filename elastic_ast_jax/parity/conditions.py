"""Arrange a clip in the ways that must not change its logits: rows, companions, devices.

Batches have one row, or one row for each device: there are few rows, and more would be padding.
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
from elastic_ast_jax.inference import batching
from elastic_ast_jax.models import factory
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape, PackedBatch

__all__ = [
    'DEVICES',
    'Condition',
    'Logits',
    'ModelRunner',
    'Patches',
    'make_conditions',
    'noise_clips',
]

# The most devices; a CPU shows this many virtual devices.
DEVICES = 8
# Lengths of rows that fit a clip exactly. Each length costs a compilation. If clips have more
# lengths, some rows are a little longer than their clip.
_MAX_LENGTHS = 6
_ARRANGEMENTS = 3
# Roughly the standard deviation of normalized log-mels.
_NOISE_STD = 0.5

Patches = Float32[np.ndarray, '_ P']
Logits = Float32[np.ndarray, '_ C']


@dataclasses.dataclass(frozen=True)
class Condition:
    """One way to run clips through the model.

    Attributes:
        shape: Shape of the batches.
        rows: Clip numbers of each row.
        attend: Attention; the model's if None.
        devices: Number of devices.
    """

    shape: BatchShape
    rows: Sequence[Sequence[int]]
    attend: Attend | None = None
    devices: int = 1


def make_conditions(
    model: LoadedModel,
    clips: Sequence[Patches],
    count: int,
    random: np.random.Generator,
    attends: Mapping[str, Attend],
) -> Iterator[tuple[str, Condition]]:
    """Yield each condition with its description.

    Args:
        model: The model.
        clips: Patches of the clips to check, followed by those of their companions.
        count: Number of clips to check.
        random: Arranges clips in rows.
        attends: Implementations of attention by name.
    """
    lengths = [len(patches) for patches in clips]
    base = _row_shape(model, 1.0, lengths)
    yield f'alone, padded to {base.tokens} tokens', Condition(base, [[i] for i in range(count)])
    for number in range(_ARRANGEMENTS):
        yield (
            f'random company, arrangement {number + 1}',
            Condition(base, _arrange(lengths, base, random)),
        )
    for share in (0.5, 1.5, 2.0):
        shape = _row_shape(model, share, lengths)
        if shape.tokens != base.tokens:
            yield (
                f'rows of {shape.tokens} tokens',
                Condition(shape, _arrange(lengths, shape, random)),
            )
    for name, attend in attends.items():
        yield f'attention: {name}', Condition(base, _arrange(lengths, base, random), attend)
    devices = 2
    while devices <= min(DEVICES, jax.device_count()):
        shape = dataclasses.replace(base, rows=devices)
        yield (
            f'{devices} devices',
            Condition(shape, _arrange(lengths, base, random), devices=devices),
        )
        devices *= 2


def noise_clips(model: LoadedModel, count: int, random: np.random.Generator) -> list[Patches]:
    """Return clips of noise of random lengths that the model takes, at least two."""
    frontend = model.config.frontend
    longest = frontend.max_time_patches
    shortest = max(1, frontend.min_frames // frontend.patch_frames)
    columns = random.integers(shortest, longest, size=max(2, count), endpoint=True)
    return [
        _NOISE_STD
        * random.standard_normal((frontend.mel_patches * int(n), frontend.patch_size), np.float32)
        for n in columns
    ]


class ModelRunner:
    """Runs the same clips through a model under different conditions, in float32."""

    def __init__(self, model: LoadedModel, clips: Sequence[Patches]):
        """Prepare a model.

        Args:
            model: The model.
            clips: Patches of the clips.
        """
        self._model, self._clips = model, clips
        self._network = model.network.clone(dtype=jnp.dtype('float32'))

    def logits_alone(self, numbers: Sequence[int], params: Any = None) -> Logits:
        """Return the logits of clips that are each alone in a row, by the reference attention.

        Args:
            numbers: Numbers of the clips.
            params: Parameters of the network; the model's if None.
        """
        scores = np.zeros((len(numbers), len(self._model.labels)), np.float32)
        row_tokens = _row_tokens([self._clips[i] for i in numbers])
        for tokens in np.unique(row_tokens):
            positions = np.flatnonzero(row_tokens == tokens).tolist()
            members = [numbers[position] for position in positions]
            shape = factory.batch_shape(self._model.config, len(self._model.labels), rows=1)
            shape = dataclasses.replace(shape, tokens=int(tokens), slots=1)
            condition = Condition(shape, [[member] for member in members], interface.reference)
            scores[positions] = self.logits(condition, params)[members]
        return scores

    def logits(self, condition: Condition, params: Any = None) -> Logits:
        """Return the logits of all clips; NaN for clips that are in no row.

        Args:
            condition: The condition.
            params: Parameters of the network; the model's if None.
        """
        params = self._model.params if params is None else params
        network = self._network.clone(attend=condition.attend or self._network.attend)
        step = functools.partial(_apply, network)
        if condition.devices > 1:
            mesh = sharding.make_mesh(devices=jax.devices()[: condition.devices])
            network = network.clone(attend=sharding.sharded_attention(network.attend, mesh))
            step = sharding.jit_eval_step(functools.partial(_apply, network), mesh)
            params = jax.device_put(params, sharding.replicated(mesh))
        batches = batching.fill_batches(
            condition.rows,
            self._clips,
            self._model.config.frontend.mel_patches,
            condition.shape,
        )

        def run(batch: PackedBatch) -> dict[str, Any]:
            return {'logits': step(params, batch)}

        scores = np.full((len(self._clips), len(self._model.labels)), np.nan, np.float32)
        for number, outputs in batching.packed_outputs(run, batches):
            scores[number] = outputs['logits']
        return scores


@functools.partial(jax.jit, static_argnums=0)
def _apply(network: factory.Network, params: Any, batch: PackedBatch) -> Float[Array, 'R S C']:
    logits = network.apply({'params': params}, batch)
    assert isinstance(logits, jax.Array)
    return logits


def _arrange(
    lengths: Sequence[int], shape: BatchShape, random: np.random.Generator
) -> list[list[int]]:
    """Return rows of the clips in a random order."""
    order = random.permutation(len(lengths))
    rows = packer.pack([lengths[i] for i in order], shape.tokens, shape.slots)
    return [[int(order[i]) for i in row] for row in rows]


def _row_shape(model: LoadedModel, share: float, lengths: Sequence[int]) -> BatchShape:
    """Return a row of about this share of the config's tokens; rows of AST fit whole clips.

    Of a row that is far longer than all clips together, only twice their tokens count: the rest is
    padding, and the memory of the reference attention grows with the square of the row.
    """
    shape = factory.batch_shape(model.config, len(model.labels), rows=1)
    longest = max(lengths)
    tokens = max(longest, int(min(shape.tokens, 2 * sum(lengths)) * share))
    if isinstance(model.network, AST):
        slots = max(1, tokens // longest)
        return dataclasses.replace(shape, tokens=slots * longest, slots=slots)
    return dataclasses.replace(shape, tokens=tokens)


def _row_tokens(clips: Sequence[Patches]) -> Int[np.ndarray, '_']:
    """Return the tokens of a row for each clip: its own, or the next of a few if there are many."""
    tokens = np.array([len(patches) for patches in clips])
    available = np.unique(tokens)
    if len(available) > _MAX_LENGTHS:
        steps = np.linspace(0, len(available) - 1, _MAX_LENGTHS + 1)
        available = available[steps.round().astype(int)[1:]]
    return available[np.searchsorted(available, tokens)]

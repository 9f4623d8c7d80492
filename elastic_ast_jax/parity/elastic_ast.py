"""Compare ElasticAST with the published PyTorch code, packed and with each clip alone."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from elastic_ast_jax.inference import batching
from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape, PackedBatch
from elastic_ast_jax.parity import numpy_reference, reference
from elastic_ast_jax.parity.comparison import Comparison, compare
from elastic_ast_jax.parity.numpy_reference import Stages
from elastic_ast_jax.parity.reference import Reference
from elastic_ast_jax.pretrained import elastic_ast_torch
from elastic_ast_jax.pretrained.elastic_ast_torch import Layout

__all__ = ['LOGITS', 'TITLES', 'Case', 'clip_stages', 'compare_forward', 'load_case']

# Title of each stored network.
TITLES = {
    'elasticast_tiny': 'ElasticAST, attention pooling',
    'elasticast_tiny_avgpool': 'ElasticAST, mean pooling',
}
# Bound of logits, and of the values before them, which are of the same size. PyTorch's own float32
# is off by 2e-5.
LOGITS = 1e-4
# Clips of a row of the packed batch, as in the stored networks.
_SLOTS = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """A stored network, and the same network of this package.

    Attributes:
        title: Title of its comparisons in the report.
        reference: Weights, clips and results of PyTorch.
        layout: Layout of the state dict.
        network: Network of this package.
        params: Parameters of this package.
        patches: Patches of each clip.
        shape: Shape of the batch.
        batch: All clips, packed, with labels.
    """

    title: str
    reference: Reference
    layout: Layout
    network: ElasticAST
    params: Any
    patches: tuple[Float32[np.ndarray, '_ P'], ...]
    shape: BatchShape
    batch: PackedBatch

    @property
    def clips(self) -> list[Float32[np.ndarray, 'mels _']]:
        """Return the normalized log-mels."""
        return [self.reference[f'clips/{i}'] for i in range(len(self.patches))]


def load_case(name: str, attend: Attend) -> Case:
    """Load the network of `<name>.npz`, with an attention of this package.

    Raises:
        ReferenceFileError: The file cannot be read.
    """
    stored = reference.load(name)
    meta, weights = stored.meta, stored.part('weights/')
    layout = elastic_ast_torch.infer_layout(
        weights, meta['heads'], 'mean' if meta['avg_pool'] else 'attention'
    )
    log_mels = [stored[f'clips/{i}'].T for i in range(len(stored['logits']))]
    patches = tuple(
        packer.patchify(clip, layout.patch, layout.patch, len(clip) // layout.patch)
        for clip in log_mels
    )
    rows = packer.pack([len(clip) for clip in patches], meta['max_tokens'], _SLOTS)
    multi_label = meta['loss'] == 'BCE'
    shape = BatchShape(
        len(rows), meta['max_tokens'], _SLOTS, layout.patch**2, layout.classes, multi_label
    )
    batch = packer.fill_batch(list(rows), patches, layout.grid[0], shape)
    targets = stored['labels'] if multi_label else stored['labels'].argmax(axis=1)
    batch.labels[batch.valid] = targets[batch.clip_id[batch.valid]]
    network = ElasticAST(
        layout.size, layout.classes, layout.grid, attend, layout.pool, scaled=False
    )
    params = elastic_ast_torch.to_params(weights, layout)
    return Case(TITLES[name], stored, layout, network, params, patches, shape, batch)


def compare_forward(case: Case) -> list[Comparison]:
    """Compare each clip's stages with the network in float64, and its logits with PyTorch's."""
    weights, stored = case.reference.part('weights/'), case.reference
    exact = [
        numpy_reference.forward(weights, clip, case.layout.size.heads, case.layout.pool)
        for clip in case.clips
    ]
    packed = clip_stages(case, [case.batch])
    rows = [[number] for number in range(len(case.patches))]
    unpacked = clip_stages(
        case, batching.fill_batches(rows, case.patches, case.layout.grid[0], case.shape)
    )

    def joined(clips: Sequence[Stages], field: str) -> Float[np.ndarray, '...']:
        return np.concatenate([np.atleast_2d(getattr(stages, field)) for stages in clips])

    def compare_stage(field: str, quantity: str) -> Comparison:
        quantity = f'{quantity}, against float64'
        return compare(case.title, quantity, joined(packed, field), joined(exact, field), LOGITS)

    def compare_logits(
        quantity: str, clips: Sequence[Stages], expected: Float[np.ndarray, 'clips C']
    ) -> Comparison:
        return compare(case.title, quantity, joined(clips, 'logits'), expected, LOGITS)

    return [
        compare_stage('embedding', 'embedding'),
        compare_stage('encoded', 'output of the encoder'),
        compare_stage('pooled', 'pooled vector'),
        compare_stage('logits', 'logits'),
        compare_logits('logits of float64, against PyTorch', exact, stored['logits']),
        compare_logits('logits, packed', packed, stored['logits']),
        compare_logits('logits, each clip alone', unpacked, stored['logits_alone']),
    ]


def clip_stages(case: Case, batches: Iterable[PackedBatch], params: Any = None) -> list[Stages]:
    """Return the stages of each clip, in the order of the clips.

    Args:
        case: The network.
        batches: Batches of the clips, in any order.
        params: Parameters of the network; those of the case if None.
    """
    params = case.params if params is None else params
    stages = {
        number: Stages(
            outputs['embedding'], outputs['tokens'], outputs['pooled'], outputs['logits']
        )
        for number, outputs in batching.packed_outputs(
            functools.partial(_run, case.network, params), batches
        )
    }
    return [stages[number] for number in sorted(stages)]


@functools.partial(jax.jit, static_argnums=0)
def _run(network: ElasticAST, params: Any, batch: PackedBatch) -> dict[str, Float[Array, '...']]:
    """Return the outputs of the network, and the embedding: the sum of patches and positions."""
    outputs, captured = network.apply(
        {'params': params},
        batch,
        method='outputs',
        mutable='intermediates',
        capture_intermediates=lambda module, _: module.name in ('embed', 'positions'),
    )
    intermediates = cast(Mapping[str, Any], captured['intermediates'])
    patches, positions = (intermediates[name]['__call__'][0] for name in ('embed', 'positions'))
    return {
        'embedding': patches + positions,
        'tokens': outputs.tokens,
        'pooled': outputs.pooled,
        'logits': outputs.logits,
    }

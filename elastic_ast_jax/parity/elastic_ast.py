"""ElasticAST against the published PyTorch code:

from the embedding to the logits, packed and alone.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.models.outputs import ModelOutputs
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape, PackedBatch
from elastic_ast_jax.parity import numpy_reference, reference
from elastic_ast_jax.parity.comparison import Comparison, compare
from elastic_ast_jax.parity.numpy_reference import Stages
from elastic_ast_jax.parity.reference import Reference
from elastic_ast_jax.pretrained import elastic_ast_torch
from elastic_ast_jax.pretrained.elastic_ast_torch import Layout

__all__ = ['TITLES', 'LOGITS', 'Case', 'load_case', 'compare_forward', 'clip_stages']

# Title of each stored network.
TITLES = {
    'elasticast_tiny': 'ElasticAST, attention pooling',
    'elasticast_tiny_avgpool': 'ElasticAST, mean pooling',
}
# Bound of logits, and of what leads to them, which is of the same size. PyTorch's own float32 is
# 2e-5 off.
LOGITS = 1e-4
# Clips of a row of the packed batch, as the stored networks had them.
_SLOTS = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """A stored network, and this package's for the same.

    Attributes:
        title: Of its rows in the report.
        reference: Weights, clips and results of PyTorch's.
        layout: Of the state dict.
        network, params: This package's.
        patches: Of each clip.
        shape, batch: Of all clips packed, with labels.
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
        """Normalised log-mels."""
        return [self.reference[f'clips/{i}'] for i in range(len(self.patches))]

    def rows_of(self, rows: Sequence[Sequence[int]]) -> PackedBatch:
        """A batch of the same shape with other rows, without labels."""
        return packer.fill_batch(rows, self.patches, self.layout.grid[0], self.shape)


def load_case(name: str, attend: Attend) -> Case:
    """The network of `<name>.npz`, with an attention of this package.

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
    return Case(
        TITLES[name],
        stored,
        layout,
        network,
        elastic_ast_torch.to_params(weights, layout),
        patches,
        shape,
        batch,
    )


def compare_forward(made: Case) -> list[Comparison]:
    """The stages of each clip against the network in float64, and the logits against PyTorch's."""
    weights, stored = made.reference.part('weights/'), made.reference
    exact = [
        numpy_reference.forward(weights, clip, made.layout.size.heads, made.layout.pool)
        for clip in made.clips
    ]
    packed = clip_stages(made, [made.batch])
    numbers = range(len(made.patches))
    alone = clip_stages(
        made,
        [
            made.rows_of([[i] for i in numbers[first : first + made.shape.rows]])
            for first in numbers[:: made.shape.rows]
        ],
    )

    def joined(clips: Sequence[Stages], field: str) -> Float[np.ndarray, '...']:
        return np.concatenate([np.atleast_2d(getattr(one, field)) for one in clips])

    def against_exact(field: str, what: str) -> Comparison:
        return compare(
            made.title,
            f'{what}, against float64',
            joined(packed, field),
            joined(exact, field),
            LOGITS,
        )

    return [
        against_exact('embedding', 'embedding'),
        against_exact('encoded', 'output of the encoder'),
        against_exact('pooled', 'pooled vector'),
        against_exact('logits', 'logits'),
        compare(
            made.title,
            'logits of float64, against PyTorch',
            joined(exact, 'logits'),
            stored['logits'],
            LOGITS,
        ),
        compare(made.title, 'logits, packed', joined(packed, 'logits'), stored['logits'], LOGITS),
        compare(
            made.title,
            'logits, each clip alone',
            joined(alone, 'logits'),
            stored['logits_alone'],
            LOGITS,
        ),
    ]


def clip_stages(made: Case, batches: Iterable[PackedBatch], params: Any = None) -> list[Stages]:
    """Of each clip, in the clips' order, whichever row of whichever batch it is in;

    with other parameters if given.
    """
    params = made.params if params is None else params
    found = {}
    for batch in batches:
        detail, embedding = jax.tree.map(np.asarray, _run(made.network, params, batch))
        for row, slot in np.argwhere(batch.valid):
            own = batch.segment_ids[row] == slot + 1
            found[int(batch.clip_id[row, slot])] = Stages(
                embedding[row, own],
                detail.tokens[row, own],
                detail.pooled[row, slot],
                detail.logits[row, slot],
            )
    return [found[number] for number in sorted(found)]


@functools.partial(jax.jit, static_argnums=0)
def _run(
    network: ElasticAST, params: Any, batch: PackedBatch
) -> tuple[ModelOutputs, Float[Array, 'R T D']]:
    """What the network makes of a batch, and the embedding:

    the sum of what two of its parts give.
    """
    detail, kept = network.apply(
        {'params': params},
        batch,
        method='outputs',
        mutable='intermediates',
        capture_intermediates=lambda module, _: module.name in ('embed', 'positions'),
    )
    patches, positions = (
        kept['intermediates'][name]['__call__'][0] for name in ('embed', 'positions')
    )
    return detail, patches + positions

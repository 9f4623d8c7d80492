"""Packed inference: chunks, batches, and the outputs of each clip in order."""

import numpy as np
import pytest

from elastic_ast_jax.inference import batching
from elastic_ast_jax.inference.batching import CHUNK
from elastic_ast_jax.inference.clips import Clip
from elastic_ast_jax.packing.batch import BatchShape

SHAPE = BatchShape(rows=4, tokens=200, slots=8, patch_size=4, classes=2)


def clip(number: int, tokens: int) -> Clip:
    """Return a clip whose patches hold its number."""
    return Clip(str(number), patches=np.full((tokens, 4), number, np.float32))


@pytest.mark.parametrize(
    ('count', 'sizes'),
    [
        (0, []),
        (1, [1]),
        (CHUNK, [CHUNK]),
        (CHUNK + 1, [CHUNK, 1]),
        (2 * CHUNK, [CHUNK] * 2),
    ],
)
def test_chunks(count, sizes):
    clips = [Clip(str(number)) for number in range(count)]
    chunks = list(batching.chunks(clips))
    assert [len(chunk) for chunk, _ in chunks] == sizes
    assert [clip for chunk, _ in chunks for clip in chunk] == clips
    assert [is_only for _, is_only in chunks] == [len(sizes) == 1] * len(sizes)


def test_a_single_small_chunk_takes_one_row():
    few = [clip(1, 20)] * 3
    (batch,) = batching.pack_batches(few, 2, SHAPE, is_only=True)
    assert batch.patches.shape == (1, 200, 4)
    (batch,) = batching.pack_batches(few, 2, SHAPE, is_only=False)
    assert batch.patches.shape == (4, 200, 4)
    many = [clip(number, 60) for number in range(20)]
    ids = []
    for batch in batching.pack_batches(many, 2, SHAPE, is_only=True):
        assert batch.patches.shape == (4, 200, 4)
        ids += batch.clip_id[batch.valid].tolist()
    assert sorted(ids) == list(range(20))


def run(batch):
    """Return the first value of each token, and the number of each slot's clip."""
    return {'tokens': batch.patches[..., :1], 'logits': batch.clip_id[..., None]}


def test_a_batch_is_dispatched_before_the_last_one_is_fetched():
    events = []

    class Output:
        def __init__(self, number, values):
            self.number, self.values = number, values

        def __array__(self, dtype=None, copy=None):
            events.append(('fetch', self.number))
            return self.values

    def run_recorded(batch):
        number = sum(event == 'run' for event, _ in events)
        events.append(('run', number))
        return {'logits': Output(number, batch.clip_id[..., None])}

    clips = [clip(number, 200) for number in range(10)]
    batches = batching.pack_batches(clips, 2, SHAPE, is_only=True)
    outputs = list(batching.packed_outputs(run_recorded, batches))
    assert [(number, values['logits'].item()) for number, values in outputs] == [
        (number, number) for number in range(10)
    ]
    assert events == [
        ('run', 0),
        ('run', 1),
        ('fetch', 0),
        ('run', 2),
        ('fetch', 1),
        ('fetch', 2),
    ]


def test_clips_keep_their_order_and_get_their_own_outputs():
    """Errors are anywhere, also where they fill a chunk."""
    random = np.random.default_rng(0)
    clips = [clip(number, 2 * int(random.integers(1, 100))) for number in range(150)]
    clips[3] = clips[100] = Clip('bad.wav', error='bad.wav: is empty')
    clips += [Clip('bad.wav', error='bad.wav: is empty')] * CHUNK
    result = []
    results = list(
        batching.clip_outputs(
            run,
            clips,
            lambda clip, outputs: (clip.name, outputs['tokens']),
            2,
            SHAPE,
            on_clip_done=lambda clip: result.append(clip.name),
        )
    )
    assert [clip for clip, _ in results] == clips
    usable = [clip for clip in clips if clip.error is None]
    assert result == [clip.name for clip in usable]
    for clip_in, summary in results:
        if clip_in.error is not None:
            assert summary is None
        else:
            assert summary is not None
            assert summary[0] == clip_in.name
            np.testing.assert_array_equal(summary[1], clip_in.patches[:, :1])

"""PackedBatch: its contract, and the errors for batches that break it."""

import jax
import ml_dtypes
import numpy as np
import pytest

from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import NO_CLIP, BatchShape, PackedBatch, validate

GRID = (2, 4)
SHAPE = BatchShape(rows=3, tokens=12, slots=4, patch_size=4, classes=5)


@pytest.fixture
def batch():
    """Two rows with five clips, and an empty third row."""
    rng = np.random.default_rng(0)
    clips = [
        rng.normal(size=(GRID[0] * columns, 4)).astype(np.float32) for columns in (2, 1, 3, 2, 1)
    ]
    return packer.fill_batch([[0, 1, 2], [3, 4]], clips, GRID[0], SHAPE)


def test_a_sound_batch_passes(batch):
    validate(batch, SHAPE, GRID)


def test_an_empty_batch_passes_and_holds_nothing():
    empty = SHAPE.empty()
    validate(empty, SHAPE, GRID)
    assert not empty.valid.any()
    assert (empty.clip_id == NO_CLIP).all()
    assert not any(array.any() for name, array in empty._asdict().items() if name != 'clip_id')


@pytest.mark.parametrize('multi_label', [False, True])
@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
def test_abstract_and_empty_agree_in_shapes_and_dtypes(multi_label, dtype):
    shape = BatchShape(2, 8, 3, 4, 7, multi_label, dtype)
    described = jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), shape.abstract())
    assert described == jax.tree.map(lambda x: (x.shape, x.dtype), shape.empty())
    assert described.labels == (((2, 3, 7), np.float32) if multi_label else ((2, 3), np.int32))
    assert described.patches == ((2, 8, 4), dtype)
    validate(shape.empty(), shape, GRID)


def test_slots_before_a_clip_may_be_empty(batch):
    """Slots that hold a clip need not be the first ones."""
    batch.segment_ids[1][batch.segment_ids[1] == 2] = 4
    batch.valid[1] = [True, False, False, True]
    batch.clip_id[1] = [3, NO_CLIP, NO_CLIP, 4]
    validate(batch, SHAPE, GRID)


@pytest.mark.parametrize('field', PackedBatch._fields)
def test_wrong_shape_and_wrong_dtype_are_refused(batch, field):
    array = getattr(batch, field)
    for wrong in (array[:2], array.astype(np.float64)):
        with pytest.raises(ValueError, match=rf'PackedBatch\.{field} is .*, must be '):
            validate(batch._replace(**{field: wrong}), SHAPE, GRID)


# Each breaks row 1, whose segment ids are [1, 1, 1, 1, 2, 2, 0, ...] and whose clips are 3 and 4.
BREAKS = {
    'NaN in a token': ('patches', (1, 0, 0), np.nan),
    'infinity in padding': ('patches', (1, 11, 0), np.inf),
    'patch in padding': ('patches', (1, 6, 3), 1.0),
    'segment id above the slots': ('segment_ids', (1, slice(4, 6)), 5),
    'segment id below 0': ('segment_ids', (1, 11), -1),
    'clip in two pieces': ('segment_ids', (1, 1), 2),
    'clips out of order': ('segment_ids', (1, slice(0, 6)), [2, 2, 1, 1, 1, 1]),
    'padding before a clip': ('segment_ids', (1, 0), 0),
    'clip without tokens': ('valid', (1, 2), True),
    'tokens without a clip': ('valid', (1, 1), False),
    'clip id in an empty slot': ('clip_id', (1, 3), 7),
    'no clip id in a filled slot': ('clip_id', (1, 0), NO_CLIP),
    'frequency beyond the table': ('freq_pos', (1, 2), GRID[0]),
    'time beyond the table': ('time_pos', (1, 2), GRID[1]),
    'frequency below 0': ('freq_pos', (1, 2), -1),
    'time below 0': ('time_pos', (1, 2), -1),
    'frequency in padding': ('freq_pos', (1, 10), 1),
    'time in padding': ('time_pos', (1, 10), 1),
}


@pytest.mark.parametrize('breakage', BREAKS)
def test_a_broken_row_is_refused_by_field_and_row(batch, breakage):
    field, where, value = BREAKS[breakage]
    getattr(batch, field)[where] = value
    pattern = 'clip_id|valid' if field == 'valid' else field
    with pytest.raises(ValueError, match=rf'PackedBatch\.({pattern}) of row 1'):
        validate(batch, SHAPE, GRID)

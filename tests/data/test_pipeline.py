"""Compare the rows of the pipeline with NumPy's.

They are a function of source, plan and step alone.
"""

import dataclasses
import itertools
import time

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import DTypeLike

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.data.epoch_plan import Planner, Schedule
from elastic_ast_jax.data.pipeline import RowReader, iterate_batches
from elastic_ast_jax.data.sampling import (
    NO_PARTNER,
    balanced_weights,
)
from elastic_ast_jax.data.sources.base import BadAudio
from elastic_ast_jax.inference.clips import to_patches
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape, PackedBatch, validate
from elastic_ast_jax.packing.token_dropout import kept_token_indices
from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.philox import Stream
from tests.data.specs import replaced, sampling_spec

CLASSES, TOKENS, SLOTS, ROWS = 5, 160, 5, 2
# Less than a window and a patch, just a window, odd lengths, whole patches of 16 frames, and 100
# frames.
LENGTHS = [90, 200, 201, 3001, 1399, 5320, 2760, 8119, 777, 6444, 1480, 4999, 8120]
FRONTEND = FrontendSpec(sample_rate=8000, mel_bins=32, max_frames=112)
EVERYTHING = sampling_spec(
    shuffle=True, ratios=(1.0, 1.2, 2.5), token_dropout=0.2, freq_mask=12, time_mask=0.4
)
EPIC = FrontendSpec(
    kind='librosa',
    sample_rate=8000,
    window_ms=10.0,
    shift_ms=5.0,
    fft=512,
    mel_bins=32,
    mean=0.0,
    std=0.5,
    partial='edge',
    min_frames=32,
    max_frames=224,
)
EPIC_DRAWS = sampling_spec(
    shuffle=True,
    cut_seconds=0.2,
    too_long='crop',
    token_dropout=0.1,
    freq_mask=8,
    time_mask=0.2,
    freq_masks=2,
    time_masks=2,
    time_warp=0.1,
    mask_fill='mean',
)

SINGLE = [(i % CLASSES,) for i in range(len(LENGTHS))]
MULTI_ALL = [(i % CLASSES, (i + 1) % CLASSES) for i in range(len(LENGTHS))]
MULTI = [tuple(range(i % CLASSES)) for i in range(len(LENGTHS))]  # every fifth clip has none


class Noise:
    """Clips of noise; one of them may hold a damaged sample, not be readable, or take its time."""

    fingerprint = 'noise'

    def __init__(self, damaged=None, value=np.nan, broken=None, error=None, slow=None):
        self.keys = [f'noise{i}.wav' for i in range(len(LENGTHS))]
        self.samples = np.array(LENGTHS)
        self.labels = [('noise',)] * len(LENGTHS)
        self.classes, self.skipped = None, ()
        self.damaged, self.value, self.broken, self.error, self.slow = (
            damaged,
            value,
            broken,
            error,
            slow,
        )

    def read(self, i):
        if i == self.broken:
            assert self.error is not None
            raise self.error
        if i == self.slow:
            time.sleep(0.1)
        waveform = np.random.default_rng(i).uniform(-0.5, 0.5, LENGTHS[i]).astype(
            np.float32
        ) + np.float32(0.01 * i)
        if i == self.damaged:
            waveform[len(waveform) // 2] = self.value
        return waveform


def reader(
    source=None,
    frontend=FRONTEND,
    spec=EVERYTHING,
    targets=SINGLE,
    epochs=2,
    rows=ROWS,
    first_row=0,
    step_rows=None,
    dtype: DTypeLike = np.float32,
    on_bad_audio: BadAudio = 'error',
):
    source = source or Noise()
    weights = balanced_weights(targets) if spec.balanced else None
    planner = Planner(source.keys, source.samples, frontend, spec, 1, TOKENS, SLOTS, weights)
    schedule = Schedule(
        tuple(len(planner.epoch(epoch).rows) for epoch in range(epochs)), step_rows or rows
    )
    shape = BatchShape(
        rows, TOKENS, SLOTS, frontend.patch_size, CLASSES, targets in (MULTI, MULTI_ALL), dtype
    )
    return RowReader(source, targets, planner, schedule, shape, first_row, on_bad_audio)


def run(row_reader, first=0, last=None, num_workers=2):
    return list(
        iterate_batches(
            row_reader, first, row_reader.schedule.steps if last is None else last, num_workers
        )
    )


def identical(a, b):
    return len(a) == len(b) and all(
        x.dtype == y.dtype and np.array_equal(x, y)
        for x, y in zip(itertools.chain(*a), itertools.chain(*b), strict=True)
    )


@pytest.fixture(scope='module')
def whole():
    """All batches of two epochs with everything switched on."""
    return run(reader())


def patches_by_numpy(source, planner, plan, position):
    """The grid of patches of one sampled clip."""
    clips, frontend = plan.clips, planner.frontend
    start, samples, frames = (
        int(getattr(clips, name)[position]) for name in ('start', 'samples', 'frames')
    )
    waveform = mixed_by_numpy(source, clips, position, frontend.kind == 'kaldi')
    if frontend.kind == 'kaldi':  # the mean counts neither in the clip nor in the level of noise
        waveform = waveform - waveform.mean()
    waveform = waveform[start : start + samples]
    waveform = with_noise_by_numpy(waveform, planner, plan, position)
    features = fbank.log_mel(waveform, frontend, int(clips.shift[position]))
    assert len(features) == frames
    if clips.roll[position]:
        features = np.roll(features, -int(clips.roll[position]), axis=0)
    if planner.spec.augment.mel_shift:
        bins = np.arange(features.shape[1])
        origin = bins - clips.mel_shift[position]
        features = np.stack([np.interp(origin, bins, frame) for frame in features])
    if frontend.partial in ('edge', 'repeat'):
        held = int(clips.time_patches[position]) * frontend.patch_frames
        missing = ((0, held - frames), (0, 0))
        features = np.pad(features, missing, 'edge' if frontend.partial == 'edge' else 'wrap')
    if planner.spec.augment.time_warp:
        place = np.arange(len(features))
        origin = np.interp(
            place,
            [0, clips.warp_to[position], place[-1]],
            [0, clips.warp_from[position], place[-1]],
        )
        features = np.stack([np.interp(origin, place, band) for band in features.T], axis=1)
    fill = features.mean() if planner.spec.augment.mask_fill == 'mean' else 0
    for band, width in zip(clips.freq_start[position], clips.freq_width[position], strict=True):
        features[:, band : band + width] = fill
    for frame, width in zip(clips.time_start[position], clips.time_width[position], strict=True):
        features[frame : frame + width] = fill
    if frontend.partial == 'zero':
        features = np.pad(
            features,
            ((0, int(clips.time_patches[position]) * frontend.patch_frames - frames), (0, 0)),
        )
    features = fbank.normalize(features, frontend)
    return packer.patchify(
        features,
        frontend.patch_mels,
        frontend.patch_frames,
        int(clips.time_patches[position]),
    )


def with_noise_by_numpy(waveform, planner, plan, position):
    """The waveform of a sampled clip with its noise."""
    level = plan.clips.noise[position]
    if not level:
        return waveform
    words = philox.words_at(
        planner.seed, plan.epoch, Stream.NOISE_SAMPLES, position, -(-len(waveform) // 4)
    )
    rms = np.sqrt(np.mean(waveform.astype(np.float64) ** 2))
    return (waveform + level * rms * philox.white_noise(words, len(waveform))).astype(np.float32)


def mixed_by_numpy(source, clips, position, centred):
    """The whole waveform of a sampled clip, mixed with its partner's as the paper says."""
    waveform = source.read(int(clips.index[position]))
    if clips.partner[position] == NO_PARTNER:
        return waveform
    other = source.read(int(clips.partner[position]))
    if centred:
        waveform, other = waveform - waveform.mean(), other - other.mean()
    other = np.pad(other, (0, max(0, len(waveform) - len(other))))[: len(waveform)]
    mixed = (clips.weight[position] * waveform + (1 - clips.weight[position]) * other).astype(
        np.float32
    )
    return mixed - mixed.mean() if centred else mixed


def batches_by_numpy(row_reader):
    """Batch after batch with one clip, and one token, at a time."""
    planner, shape = row_reader.planner, row_reader.shape
    for step in range(row_reader.schedule.steps):
        epoch, number = row_reader.schedule.locate(step)
        plan, batch = planner.epoch(epoch), shape.empty()
        for r, row in enumerate(
            range(number * shape.rows, min((number + 1) * shape.rows, len(plan.rows)))
        ):
            place = 0
            for slot, position in enumerate(plan.rows[row]):
                clip, columns = plan.clips.index[position], int(plan.clips.time_patches[position])
                patches = patches_by_numpy(row_reader.source, planner, plan, position)
                kept = np.arange(len(patches))
                if plan.clips.tokens[position] < len(patches):
                    kept = kept_token_indices(
                        planner.seed,
                        epoch,
                        int(position),
                        len(patches),
                        int(plan.clips.tokens[position]),
                    )
                for token in kept:
                    batch.patches[r, place] = patches[token]
                    batch.segment_ids[r, place] = slot + 1
                    batch.freq_pos[r, place], batch.time_pos[r, place] = divmod(int(token), columns)
                    place += 1
                batch.valid[r, slot], batch.clip_id[r, slot] = True, clip
                if shape.multi_label:
                    weight, partner = plan.clips.weight[position], plan.clips.partner[position]
                    for label in row_reader.targets[clip]:
                        batch.labels[r, slot, label] += weight
                    for label in row_reader.targets[partner] if partner != NO_PARTNER else ():
                        batch.labels[r, slot, label] += 1 - weight
                else:
                    batch.labels[r, slot] = row_reader.targets[clip][0]
        yield batch


CASES = {
    'all at once': {},
    'all at once, last frames dropped': {
        'frontend': dataclasses.replace(FRONTEND, partial='floor')
    },
    'several labels': {'targets': MULTI},
    'crops and prefixes': {
        'frontend': dataclasses.replace(FRONTEND, max_frames=64),
        'spec': sampling_spec(shuffle=True, too_long='crop', prefix_frames=32, time_mask=0.5),
    },
    'crops, last frames dropped': {
        'frontend': dataclasses.replace(FRONTEND, max_frames=64, partial='floor'),
        'spec': sampling_spec(shuffle=True, ratios=(1.0, 1.5), too_long='crop', freq_mask=32),
    },
    'mixup and balanced sampling': {
        'targets': MULTI_ALL,
        'spec': sampling_spec(
            balanced=True, mixup=0.6, too_long='crop', cut_seconds=0.3, token_dropout=0.1
        ),
    },
    'as for small data': {
        'spec': sampling_spec(
            shuffle=True,
            ratios=(1.0, 1.2),
            mel_shift=3.0,
            roll=0.7,
            noise=0.7,
            time_warp=0.1,
            freq_mask=8,
        ),
    },
    'as for small data, from EPIC-SOUNDS': {
        'frontend': EPIC,
        'spec': replaced(EPIC_DRAWS, mel_shift=3.0, roll=0.7, noise=0.7),
    },
    'as of a published AST': {
        'frontend': dataclasses.replace(FRONTEND, partial='zero', min_frames=112),
        'spec': sampling_spec(
            shuffle=True,
            ratios=(1.0, 2.5),
            freq_mask=12,
            time_mask=0.4,
            time_warp=0.1,
            mask_fill='mean',
        ),
    },
    'as of an AST of the published code': {
        'frontend': dataclasses.replace(FRONTEND, partial='repeat', min_frames=112),
        'spec': sampling_spec(shuffle=True, freq_mask=12, time_mask=0.4, time_warp=0.1),
    },
    'as of the published code on AudioSet': {
        'frontend': dataclasses.replace(FRONTEND, partial='zero', fixed_frames=112),
        'spec': sampling_spec(
            shuffle=True, ratios=(1.0, 1.2, 2.5), random_token_dropout=0.4, time_mask=0.4
        ),
    },
    'as on EPIC-SOUNDS': {'frontend': EPIC, 'spec': EPIC_DRAWS},
    'as on EPIC-SOUNDS, mixed': {
        'frontend': EPIC,
        'targets': MULTI,
        'spec': replaced(EPIC_DRAWS, mixup=0.5),
    },
    'masks and warp with the usual frontend': {
        'spec': sampling_spec(
            shuffle=True,
            ratios=(1.0, 1.2),
            time_warp=0.2,
            mask_fill='mean',
            freq_masks=3,
            freq_mask=8,
            time_masks=2,
            time_mask=0.2,
        ),
    },
    'evaluation': {'spec': sampling_spec(), 'targets': MULTI},
    'evaluation at twice the shift': {
        'spec': sampling_spec(ratios=(2.0,)),
        'frontend': dataclasses.replace(FRONTEND, mel_bins=16),
    },
}


@pytest.mark.parametrize('case', CASES)
def test_rows_are_those_of_plain_numpy(case):
    row_reader = reader(**CASES[case])
    grid = row_reader.planner.frontend.mel_patches, row_reader.planner.frontend.max_time_patches
    for batch, expected in zip(run(row_reader), batches_by_numpy(row_reader), strict=True):
        validate(batch, row_reader.shape, grid)
        for name in PackedBatch._fields:
            if name == 'labels' and row_reader.planner.spec.augment.mixup:
                np.testing.assert_allclose(batch.labels, expected.labels, rtol=0, atol=1e-6)
            elif (
                name == 'patches'
            ):  # noise has no quiet bins, so float32 differs by less than 1e-3 before normalisation
                np.testing.assert_allclose(batch.patches, expected.patches, rtol=0, atol=1e-4)
            else:
                assert np.array_equal(getattr(batch, name), getattr(expected, name)), name


def test_what_prediction_fills_in_is_what_the_graph_gives():
    row_reader = reader(spec=sampling_spec(), epochs=1)
    plan, frontend = row_reader.planner.epoch(0), FRONTEND
    clips = [
        patches_by_numpy(row_reader.source, row_reader.planner, plan, position)
        for position in range(len(LENGTHS))
    ]
    rows = [row.tolist() for row in plan.rows]
    for step, batch in enumerate(run(row_reader)):
        filled = packer.fill_batch(
            rows[step * ROWS : (step + 1) * ROWS], clips, frontend.mel_patches, row_reader.shape
        )
        np.testing.assert_allclose(batch.patches, filled.patches, rtol=0, atol=1e-4)
        for name in ('segment_ids', 'freq_pos', 'time_pos', 'valid', 'clip_id'):
            assert np.array_equal(getattr(batch, name), getattr(filled, name)), name


def test_epochs_hold_every_clip_once_and_end_in_empty_rows(whole):
    row_reader = reader()
    ends = row_reader.schedule.epoch_ends
    for first, last in itertools.pairwise([0, *ends]):
        clips = np.concatenate([batch.clip_id[batch.valid] for batch in whole[first:last]])
        assert sorted(clips.tolist()) == list(range(len(LENGTHS)))
    # This schedule ends with an empty row; it must not be left to chance whether one is tested.
    row_reader = reader(rows=4)
    assert any(rows % 4 for rows in row_reader.schedule.epoch_rows)
    for epoch, batch in enumerate(
        run(row_reader)[end - 1] for end in row_reader.schedule.epoch_ends
    ):
        validate(batch, row_reader.shape, (FRONTEND.mel_patches, FRONTEND.max_time_patches))
        filled = row_reader.schedule.epoch_rows[epoch] % 4 or 4
        assert batch.valid[:filled].any(axis=1).all()
        assert not batch.valid[filled:].any() and not batch.patches[filled:].any()


def test_a_run_that_starts_at_a_step_sees_what_it_would_have_seen(whole):
    for first in range(1, len(whole) + 1):
        assert identical(run(reader(), first), whole[first:])
    assert identical(run(reader(), 1, 3), whole[1:3])


@pytest.mark.parametrize('num_workers', [1, 7])
def test_neither_the_number_of_workers_nor_a_slow_disk_changes_anything(whole, num_workers):
    assert identical(
        run(reader(Noise(slow=int(whole[0].clip_id[0, 0]))), num_workers=num_workers), whole
    )


def test_hosts_together_read_the_rows_of_one():
    one = run(reader(rows=4))
    parts = [run(reader(rows=2, first_row=first, step_rows=4)) for first in (0, 2)]
    joined = [
        PackedBatch(*map(np.concatenate, zip(*pair, strict=True)))
        for pair in zip(*parts, strict=True)
    ]
    assert identical(joined, one)


def test_rows_of_a_host_lie_within_a_step():
    row_reader = reader()
    with pytest.raises(ValueError, match='2 rows from row 1 on are not within the 2 of a step'):
        RowReader(
            row_reader.source,
            row_reader.targets,
            row_reader.planner,
            row_reader.schedule,
            row_reader.shape,
            1,
        )


def test_bfloat16_is_the_float32_rounded(whole):
    for batch, exact in zip(run(reader(dtype=ml_dtypes.bfloat16)), whole, strict=True):
        assert batch.patches.dtype == ml_dtypes.bfloat16
        assert np.array_equal(batch.patches, exact.patches.astype(ml_dtypes.bfloat16))


class DiskError(OSError):
    """An error of a kind that no library raises."""


def test_an_error_of_a_read_arrives_as_it_was_raised(whole):
    late = int(whole[1].clip_id[0, 0])  # in the second step
    error, before = DiskError(f'noise{late}.wav: the disk is gone'), []
    with pytest.raises(DiskError) as caught:
        for batch in iterate_batches(reader(Noise(broken=late, error=error)), 0, len(whole), 2):
            before.append(batch)
    assert caught.value is error
    assert identical(before, whole[:1])


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
@pytest.mark.parametrize('value', [np.nan, np.inf, 1e30])
@pytest.mark.parametrize('damaged', [0, 3, 12])
def test_a_damaged_clip_is_refused_by_name(damaged, value):
    with pytest.raises(
        ValueError, match=rf'noise{damaged}\.wav: the log-mel has values that are not finite'
    ):
        run(reader(Noise(damaged, value)))


@pytest.mark.parametrize('partial', ['pad', 'floor', 'edge', 'repeat'])
def test_training_and_prediction_see_the_same_end_of_a_clip_with_centred_frames(partial):
    """Use clips that are mostly no whole number of frame shifts long.

    The last window holds their last samples.
    """
    frontend = dataclasses.replace(EPIC, partial=partial, min_frames=0)
    row_reader = reader(frontend=frontend, spec=sampling_spec(), epochs=1)
    batches = {}
    for batch in run(row_reader):
        for row, slot in np.argwhere(batch.valid):
            batches[int(batch.clip_id[row, slot])] = batch.patches[
                row, batch.segment_ids[row] == slot + 1
            ]
    assert sum(length % frontend.shift() > 0 for length in LENGTHS) > 5
    for clip in range(len(LENGTHS)):
        features = fbank.normalize(fbank.log_mel(row_reader.source.read(clip), frontend), frontend)
        whole = to_patches(features, frontend)
        np.testing.assert_allclose(batches[clip], whole, rtol=0, atol=2e-4)


class Broken(Noise):
    """Some of the clips cannot be decoded."""

    def __init__(self, broken):
        super().__init__()
        self.unreadable = set(broken)

    def read(self, i):
        if i in self.unreadable:
            raise AudioError(f'noise{i}.wav: decoding fails')
        return super().read(i)


def test_a_clip_that_cannot_be_decoded_stops_the_run_unless_it_is_skipped():
    with pytest.raises(AudioError, match=r'noise3\.wav: decoding fails'):
        run(reader(Broken([3])))
    row_reader = reader(Broken([3, 7]), on_bad_audio='skip')
    batches = run(row_reader)
    assert row_reader.skipped == {3: 'noise3.wav: decoding fails', 7: 'noise7.wav: decoding fails'}
    for batch in batches:
        validate(batch, row_reader.shape, (FRONTEND.mel_patches, FRONTEND.max_time_patches))
    clips = np.concatenate([batch.clip_id[batch.valid] for batch in batches])
    assert sorted(clips.tolist()) == sorted([i for i in range(len(LENGTHS)) if i not in (3, 7)] * 2)


def test_what_is_skipped_changes_no_other_clip(whole):
    """The tokens of each other clip are bit for bit those of a run without damage."""

    def tokens(batches):
        patches_by_clip = {}
        for batch in batches:
            for row, slot in np.argwhere(batch.valid):
                own = batch.segment_ids[row] == slot + 1
                patches_by_clip.setdefault(int(batch.clip_id[row, slot]), []).append(
                    [x[row, own] for x in (batch.patches, batch.freq_pos, batch.time_pos)]
                )
        return patches_by_clip

    healthy, damaged = tokens(whole), tokens(run(reader(Broken([3]), on_bad_audio='skip')))
    assert healthy.keys() - damaged.keys() == {3}
    for clip, parts in damaged.items():
        assert all(
            identical(part, other) for part, other in zip(parts, healthy[clip], strict=True)
        ), clip


def test_a_row_of_nothing_but_damaged_clips_is_empty():
    row_reader = reader(Broken(range(len(LENGTHS))), on_bad_audio='skip')
    assert not any(batch.valid.any() or batch.patches.any() for batch in run(row_reader))


def test_a_clip_whose_partner_cannot_be_decoded_is_skipped_too():
    spec = sampling_spec(mixup=1.0)
    row_reader = reader(Broken([3]), spec=spec, targets=MULTI_ALL, epochs=1, on_bad_audio='skip')
    sampled = row_reader.planner.epoch(0).clips
    clips = np.concatenate([batch.clip_id[batch.valid] for batch in run(row_reader)])
    assert (
        sorted(clips.tolist())
        == np.flatnonzero((sampled.partner != 3) & (sampled.index != 3)).tolist()
    )
    assert set(row_reader.skipped) == {3}

"""From recordings to clips:

in order, as far ahead as is asked for, and without what nobody asked for.
"""

import dataclasses
import threading

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.audio import fbank, reading
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.windows import choose
from elastic_ast_jax.inference import clips
from elastic_ast_jax.inference.clips import CHUNK, Clip
from elastic_ast_jax.packing.batch import BatchShape

FRONTEND = FrontendSpec(sample_rate=8000, mel_bins=32, patch_frames=4, max_frames=100)
WINDOWS = choose(FRONTEND, 0.5)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize('partial', ['pad', 'zero', 'floor', 'edge'])
def test_a_window_is_what_its_samples_are_by_themselves(partial):
    frontend = dataclasses.replace(FRONTEND, partial=partial)
    sound = noise(50_000) + np.linspace(0, 1, 50_000, dtype=np.float32)
    windows = choose(frontend, 0.3)
    found = list(clips.read_clips([sound], frontend, windows))
    assert [(clip.start, clip.stop) for clip in found] == windows.spans(50_000)
    assert [clip.index for clip in found] == list(range(len(found)))
    assert {(clip.name, clip.samples, clip.count) for clip in found} == {
        ('array 0', 50_000, len(found))
    }
    assert [clip.last for clip in found] == [False] * (len(found) - 1) + [True]
    for clip in found:
        (alone,) = clips.read_clips([sound[clip.start : clip.stop]], frontend, windows)
        assert clip.patches.tobytes() == alone.patches.tobytes()
        assert clip.patches.shape == (frontend.tokens(100), frontend.patch_size)


def test_recordings_keep_their_order(tmp_path):
    inputs = []
    for number in range(150):
        samples = noise(100 + 37 * number if number % 40 else 30_000, number)
        if number % 3:
            inputs.append(samples)
        else:
            inputs.append(tmp_path / f'{number}.wav')
            soundfile.write(inputs[-1], samples, 8000, subtype='FLOAT')
    inputs[5] = tmp_path / 'missing.wav'
    found = list(clips.read_clips(inputs, FRONTEND, WINDOWS))
    names = [
        str(source) if number % 3 == 0 or number == 5 else f'array {number}'
        for number, source in enumerate(inputs)
    ]
    assert [clip.name for clip in found if clip.last] == names
    assert [clip.name for clip in found if clip.error] == [str(inputs[5])]
    for clip in found:
        if clip.name.endswith('.wav') and not clip.error:
            waveform = reading.read(clip.name, 8000)[clip.start : clip.stop]
            features = fbank.normalise(fbank.log_mel(waveform, FRONTEND), FRONTEND)
            np.testing.assert_array_equal(clip.patches, clips.to_patches(features, FRONTEND))


def test_a_folder_is_told_by_what_is_in_it(tmp_path):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'empty' / 'below').mkdir(parents=True)
    soundfile.write(tmp_path / 'full' / 'a.wav', noise(100), 8000)
    full, empty = clips.read_clips([tmp_path / 'full', tmp_path / 'empty'], FRONTEND, WINDOWS)
    assert full.error == f'{tmp_path}/full: is a folder, not a recording: pass the files in it'
    assert empty.error.startswith(
        f'{tmp_path}/empty: no recording in this folder or below (looked for .'
    )


def test_an_error_ends_its_recording():
    sound = noise(200_000)
    sound[150_000] = np.nan
    found = list(clips.read_clips([sound, noise(100)], FRONTEND, WINDOWS))
    bad = [clip for clip in found if clip.name == 'array 0']
    assert bad[-1].error is not None and all(clip.error is None for clip in bad[:-1])
    assert all(clip.stop <= 150_000 for clip in bad[:-1])
    assert found[-1].name == 'array 1' and found[-1].error is None


def test_arrays_that_are_too_long_are_converted_piece_by_piece():
    """Ten hours that take no memory until they are read."""
    endless = np.broadcast_to(np.int16(1000), (36_000 * 8000, 2))
    first = next(clips.read_clips([endless], FRONTEND, WINDOWS))
    assert first.count > 70_000 and first.samples == len(endless)


def test_whoever_stops_asking_leaves_no_threads():
    before = threading.active_count()
    found = clips.read_clips((noise(20_000, number) for number in range(1000)), FRONTEND, WINDOWS)
    next(found)
    assert threading.active_count() > before
    found.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    'count, sizes',
    [
        (0, []),
        (1, [1]),
        (CHUNK, [CHUNK]),
        (CHUNK + 1, [CHUNK, 1]),
        (2 * CHUNK, [CHUNK] * 2),
    ],
)
def test_chunks(count, sizes):
    made = [Clip(str(number)) for number in range(count)]
    found = list(clips.chunks(made))
    assert [len(chunk) for chunk, _ in found] == sizes
    assert [clip for chunk, _ in found for clip in chunk] == made
    assert [only for _, only in found] == [len(sizes) == 1] * len(sizes)


def test_few_clips_that_are_all_take_one_row():
    shape = BatchShape(rows=4, tokens=200, slots=8, patch_size=4, classes=2)
    few = [np.ones((20, 4), np.float32)] * 3
    (batch,) = clips.batches(few, 2, shape, only=True)
    assert batch.patches.shape == (1, 200, 4)
    (batch,) = clips.batches(few, 2, shape, only=False)
    assert batch.patches.shape == (4, 200, 4)
    many = [np.full((60, 4), number, np.float32) for number in range(20)]
    ids = []
    for batch in clips.batches(many, 2, shape, only=True):
        assert batch.patches.shape == (4, 200, 4)
        ids += batch.clip_id[batch.valid].tolist()
    assert sorted(ids) == list(range(20))

"""Recordings as clips: in order, read ahead, and without threads that outlive their reader."""

import dataclasses
import threading

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.audio import fbank, reading
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.windows import make_windows
from elastic_ast_jax.inference import clips

FRONTEND = FrontendSpec(sample_rate=8000, mel_bins=32, patch_frames=4, max_frames=100)
WINDOWS = make_windows(FRONTEND, 0.5)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize('partial', ['pad', 'zero', 'floor', 'edge'])
def test_a_window_equals_its_samples_as_a_recording(partial):
    frontend = dataclasses.replace(FRONTEND, partial=partial)
    sound = noise(50_000) + np.linspace(0, 1, 50_000, dtype=np.float32)
    windows = make_windows(frontend, 0.3)
    read = list(clips.read_clips([sound], frontend, windows))
    assert [(clip.start, clip.stop) for clip in read] == windows.spans(50_000)
    assert [clip.index for clip in read] == list(range(len(read)))
    assert {(clip.name, clip.samples, clip.count) for clip in read} == {
        ('array 0', 50_000, len(read))
    }
    assert [clip.is_last for clip in read] == [False] * (len(read) - 1) + [True]
    for clip in read:
        (single,) = clips.read_clips([sound[clip.start : clip.stop]], frontend, windows)
        assert clip.patches.tobytes() == single.patches.tobytes()
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
    read = list(clips.read_clips(inputs, FRONTEND, WINDOWS))
    names = [
        str(source) if number % 3 == 0 or number == 5 else f'array {number}'
        for number, source in enumerate(inputs)
    ]
    assert [clip.name for clip in read if clip.is_last] == names
    assert [clip.name for clip in read if clip.error] == [str(inputs[5])]
    for clip in read:
        if clip.name.endswith('.wav') and not clip.error:
            waveform = reading.read(clip.name, 8000)[clip.start : clip.stop]
            features = fbank.normalize(fbank.log_mel(waveform, FRONTEND), FRONTEND)
            np.testing.assert_array_equal(clip.patches, clips.to_patches(features, FRONTEND))


def test_a_folder_is_an_error_that_depends_on_its_files(tmp_path):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'empty' / 'below').mkdir(parents=True)
    soundfile.write(tmp_path / 'full' / 'a.wav', noise(100), 8000)
    full, empty = clips.read_clips([tmp_path / 'full', tmp_path / 'empty'], FRONTEND, WINDOWS)
    assert full.error == f'{tmp_path}/full: is a folder, not a recording: pass the files in it'
    assert empty.error is not None and empty.error.startswith(
        f'{tmp_path}/empty: no recording in this folder or below (suffixes: .'
    )


def test_an_error_ends_its_recording():
    sound = noise(200_000)
    sound[150_000] = np.nan
    read = list(clips.read_clips([sound, noise(100)], FRONTEND, WINDOWS))
    bad = [clip for clip in read if clip.name == 'array 0']
    assert bad[-1].error is not None and all(clip.error is None for clip in bad[:-1])
    assert all(clip.stop <= 150_000 for clip in bad[:-1])
    assert read[-1].name == 'array 1' and read[-1].error is None


def test_arrays_that_are_too_long_are_converted_piece_by_piece():
    """Read ten hours that take no memory until they are read."""
    endless = np.broadcast_to(np.int16(1000), (36_000 * 8000, 2))
    first = next(clips.read_clips([endless], FRONTEND, WINDOWS))
    assert first.count > 70_000 and first.samples == len(endless)


def test_a_reader_that_stops_early_leaves_no_threads():
    before = threading.active_count()
    recordings = clips.read_clips(
        (noise(20_000, number) for number in range(1000)), FRONTEND, WINDOWS
    )
    next(recordings)
    assert threading.active_count() > before
    recordings.close()
    assert threading.active_count() == before

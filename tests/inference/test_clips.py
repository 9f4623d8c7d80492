"""Recordings as clips: in order, read ahead, and without threads that outlive their reader."""

import dataclasses
import threading

import numpy as np
import pytest
import soundfile
import torch

from elastic_ast_jax.audio import fbank, reading
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.windows import make_windows
from elastic_ast_jax.inference import clips

FRONTEND = FrontendSpec(sample_rate=8000, mel_bins=32, patch_frames=4, max_frames=100)
WINDOWS = make_windows(FRONTEND, 0.5)


class Unreadable:
    """An array of another library that NumPy cannot read."""

    def __array__(self, *_, **__):
        raise RuntimeError('not on this device')


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


def test_a_single_path_or_array_is_one_input(tmp_path):
    path = tmp_path / 'a.wav'
    soundfile.write(path, noise(1000), 8000, subtype='FLOAT')
    for single in (str(path), path):
        (clip,) = clips.read_clips(single, FRONTEND, WINDOWS)
        assert clip.name == str(path) and clip.error is None and clip.samples == 1000
    stereo = np.stack([noise(1000), noise(1000, 1)], axis=1)
    for single in (noise(1000), stereo, noise(1000).astype(np.float64)):
        (clip,) = clips.read_clips(single, FRONTEND, WINDOWS)
        assert (clip.name, clip.samples, clip.error) == ('array 0', 1000, None)
    rows = list(clips.read_clips(np.stack([noise(1000), noise(1000)]), FRONTEND, WINDOWS))
    assert [clip.samples for clip in rows] == [1000, 1000]


def test_what_is_no_recording_is_named_and_does_not_stop_the_others(tmp_path):
    good = noise(1000)
    wrong = [
        ((good, 16000), 'is a tuple of samples and a sample rate: pass the samples alone'),
        ([8000, [0.0, 0.1]], 'is a list of samples and a sample rate'),
        (torch.zeros(100, requires_grad=True), 'is a Tensor with gradients: pass tensor.detach()'),
        ({'array': good, 'sampling_rate': 8000}, 'is a dictionary: pass its samples alone'),
        (b'a.wav', 'is bytes: pass the path of a recording as text'),
        (None, 'a NoneType that is no array of numbers'),
        (['a.wav', 'b.wav'], 'a list that is no array of numbers'),
        ([[0.1], [0.1, 0.2]], 'a list that makes no array (ValueError'),
        (Unreadable(), 'a Unreadable that makes no array (RuntimeError: not on this device'),
        (3.0, 'neither [samples] nor [samples, channels]'),
    ]
    read = list(clips.read_clips([good, *(source for source, _ in wrong), good], FRONTEND, WINDOWS))
    assert [clip.name for clip in read] == [f'array {i}' for i in range(len(wrong) + 2)]
    assert read[0].error is None and read[-1].error is None
    for clip, (_, part) in zip(read[1:-1], wrong, strict=True):
        assert clip.error is not None and clip.error.startswith(f'{clip.name}: '), clip.error
        assert part in clip.error


def test_places_that_cannot_be_read_are_errors_of_their_inputs(tmp_path, monkeypatch):
    gone, broken = tmp_path / 'gone.wav', tmp_path / 'broken.wav'
    gone.symlink_to('/mnt/gone.wav')
    soundfile.write(broken, noise(1000), 8000)
    read_whole = reading.read

    def fail(path, *arguments):
        if path == str(broken):
            raise OSError(5, 'Input/output error', path)
        return read_whole(path, *arguments)

    monkeypatch.setattr(reading, 'read', fail)
    inputs = ['gs://bucket/a.wav', str(gone), str(broken), '', 'a\0.wav', noise(1000)]
    errors = [clip.error for clip in clips.read_clips(inputs, FRONTEND, WINDOWS)]
    assert errors[:4] == [
        'gs://bucket/a.wav: is an address, and only local files are read: copy the recording here',
        f'{gone}: no such file, but a link to /mnt/gone.wav, which does not exist: restore it',
        f'{broken}: cannot be read (Input/output error): check the disk, or get it again',
        "'': an empty path names no recording: check the command or the list",
    ]
    assert errors[4] is not None and 'null byte' in errors[4] and errors[5] is None

import os
import threading
import tracemalloc

import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_ast_jax.audio import frontend, reading
from elastic_ast_jax.audio.reading import AudioError, Header


def noise(samples, channels=None, seed=0):
    shape = samples if channels is None else (samples, channels)
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def tone(seconds, rate, hertz):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(
        np.float32
    )


@pytest.fixture
def wav(tmp_path):
    def write(samples, rate=16000, name='a.wav', **kwargs):
        path = str(tmp_path / name)
        soundfile.write(path, samples, rate, **kwargs)
        return path

    return write


def test_header_agrees_with_read(wav):
    for name, rate, channels in (
        ('a.wav', 8000, 1),
        ('b.flac', 44100, 2),
        ('c.ogg', 16000, 3),
        ('d.mp3', 22050, 1),
        ('e.aiff', 48000, 6),
    ):
        path = wav(noise(2345, channels), rate, name)
        assert reading.read_header(path) == Header(2345, rate, channels)
        assert reading.read(path, rate).shape == (2345,)


def test_16_bit_samples_are_divided_by_full_scale(wav):
    samples = np.array([-32768, -1, 0, 1, 16384, 32767], np.int16)
    read = reading.read(wav(samples), 16000)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, samples / 32768)


def test_channels_are_averaged(wav):
    samples = noise(1000, 3)
    path = wav(samples, subtype='FLOAT')
    np.testing.assert_allclose(
        reading.read(path, 16000), samples.astype(np.float64).mean(axis=1), atol=1e-7
    )


@pytest.mark.parametrize('name', ['a.wav', 'a.flac', 'a.ogg', 'a.mp3'])
def test_a_range_is_a_slice_of_the_whole(wav, name):
    path = wav(noise(20000, 2), 44100, name)
    whole = reading.read(path, 44100)
    np.testing.assert_array_equal(reading.read(path, 44100, 7000, 9001), whole[7000:9001])
    np.testing.assert_array_equal(reading.read(path, 44100, 19999), whole[19999:])


def test_a_tone_keeps_its_pitch_at_another_rate(wav):
    for native, rate in ((44100, 16000), (8000, 16000), (22050, 48000)):
        read = reading.read(wav(tone(0.5, native, 440), native, subtype='FLOAT'), rate)
        expected = tone(0.5, rate, 440)
        middle = slice(rate // 20, -rate // 20)  # the filter rings at the ends
        np.testing.assert_allclose(read[middle], expected[middle], atol=1e-3)


def test_resampling_equals_librosa(wav):
    for native, rate in ((44100, 16000), (8000, 16000), (11025, 48000)):
        samples = noise(5001)
        expected = librosa.resample(samples, orig_sr=native, target_sr=rate, res_type='soxr_hq')
        np.testing.assert_array_equal(
            reading.read(wav(samples, native, subtype='FLOAT'), rate), expected
        )


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3000),
    st.sampled_from([8000, 11025, 22050, 44100, 48000]),
    st.sampled_from([8000, 16000, 48000]),
)
def test_lengths_after_resampling_equal_the_plan(samples, native, rate):
    read = reading.from_array(noise(samples), 'x', native, rate)
    assert len(read) == frontend.resampled_length(samples, native, rate)


def test_lengths_are_exact_despite_rounding_of_the_ratio():
    # 147 * (48000 / 11025) is 640.0000000000001.
    assert len(reading.from_array(noise(147), 'x', 11025, 48000)) == 640


@pytest.mark.parametrize('name', ['a.wav', 'a.flac', 'a.ogg', 'a.opus', 'a.mp3'])
@pytest.mark.parametrize('rate', [16000, 22050])
def test_joined_blocks_equal_a_single_read(wav, name, rate, monkeypatch):
    path = wav(
        noise(48000, 2),
        16000,
        name,
        format='OGG' if name == 'a.opus' else None,
        subtype='OPUS' if name == 'a.opus' else None,
    )
    whole = reading.read(path, rate)
    # Decode even this short recording in pieces.
    monkeypatch.setattr(reading, '_DECODED', 5000)
    for samples in (1000, len(whole) - 1, len(whole), 10 * len(whole)):
        blocks = list(reading.read_blocks(path, rate, samples))
        assert all(len(block) == samples for block in blocks[:-1])
        assert 0 < len(blocks[-1]) <= samples
        np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize('name', ['a.ogg', 'a.mp3'])
def test_ranges_at_the_end_are_exact(wav, name):
    """libsndfile alone seeks inexactly in the last page of an OGG and in an MP3 of dense frames."""
    path = wav(noise(48000), 16000, name)
    whole = reading.read(path, 16000)
    for start in range(0, 48000, 1997):
        np.testing.assert_allclose(
            reading.read(path, 16000, start, min(start + 500, 48000)),
            whole[start : start + 500],
            atol=1e-6,
            rtol=0,
        )


def test_blocks_of_a_long_recording_need_little_memory(wav):
    path = wav(np.zeros((3_000_000, 8), np.int16), 192000)  # 92 MiB as float32
    tracemalloc.start()
    count = sum(len(block) for block in reading.read_blocks(path, 16000, 16000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 250_000
    assert peak < 16 << 20


def test_blocks_raise_the_errors_of_read(wav, tmp_path):
    samples = noise(30000)
    samples[21234] = np.nan
    blocks = reading.read_blocks(wav(samples, 8000, subtype='FLOAT'), 8000, 1000)
    with pytest.raises(AudioError, match=r'sample 21234 \(at 2\.654 s\)'):
        list(blocks)
    path = wav(noise(40000), name='a.flac')
    with open(path, 'r+b') as file:
        file.truncate(os.path.getsize(path) // 2)
    for bad_path, rate in (
        (path, 16000),
        (str(tmp_path / 'missing.wav'), 16000),
        (wav(noise(10)), 0),
    ):
        with pytest.raises(AudioError) as error:
            list(reading.read_blocks(bad_path, rate, 1000))
        assert str(error.value).startswith(f'{bad_path}: ')
    with pytest.raises(ValueError, match='blocks of 0 samples'):
        list(reading.read_blocks(wav(noise(10)), 8000, 0))


def test_threads_read_the_same_samples(wav):
    paths = [wav(noise(4000, seed=i), 8000, f'{i}.wav') for i in range(8)]
    expected = [reading.read(path, 16000) for path in paths]
    samples = [np.zeros(0, np.float32)] * 8

    def work(i):
        for _ in range(5):
            samples[i] = reading.read(paths[i], 16000)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pair in zip(samples, expected, strict=True):
        np.testing.assert_array_equal(*pair)


@pytest.mark.parametrize('call', [reading.read_header, lambda path: reading.read(path, 16000)])
def test_invalid_files_are_refused_by_name(tmp_path, wav, call):
    (tmp_path / 'text.wav').write_text('not a recording\n' * 100)
    (tmp_path / 'empty.wav').touch()
    (tmp_path / 'x.raw').write_bytes(bytes(1000))
    wav(noise(0), name='silent.wav')
    os.mkfifo(tmp_path / 'pipe.wav')
    (tmp_path / 'link.wav').symlink_to('nowhere.wav')
    for name, words in (
        ('text.wav', 'libsndfile cannot read it .*[Ff]ormat not recognised'),
        ('empty.wav', 'empty'),
        ('silent.wav', 'no samples'),
        ('x.raw', 'without a header'),
        ('', 'folder'),
        ('missing.wav', 'no such file'),
        ('link.wav', 'no such file'),
        ('pipe.wav', 'not a regular file'),
        ('text.wav/b.wav', 'cannot be opened'),
        ('nul\0.wav', 'cannot be opened'),
    ):
        path = str(tmp_path / name)
        with pytest.raises(AudioError, match=words) as error:
            call(path)
        assert str(error.value).startswith(path)


@pytest.mark.parametrize('name', ['a.wav', 'a.aiff', 'a.au', 'a.flac', 'a.mp3', 'a.caf'])
def test_a_truncated_file_is_refused(wav, name):
    path = wav(noise(40000), name=name)
    with open(path, 'r+b') as file:
        file.truncate(os.path.getsize(path) // 2)
    with pytest.raises(AudioError, match=r'truncated|malformed') as error:
        reading.read(path, 16000)
    assert str(error.value).startswith(path)


def test_a_size_in_the_header_shows_truncation_before_decoding(wav):
    path = wav(noise(1000))
    with open(path, 'r+b') as file:
        file.truncate(44 + 1000)
    with pytest.raises(AudioError, match='promises 2000 bytes of samples and 1000 are present'):
        reading.read_header(path)


# The sizes of programs that write to a pipe, and of a program that counts the header.
@pytest.mark.parametrize('size', [0x7FFFFFFF, 0xFFFFFFFF, 2044])
def test_common_wrong_wav_sizes_are_accepted(wav, size):
    path = wav(noise(1000))
    with open(path, 'r+b') as file:
        file.seek(40)
        file.write(size.to_bytes(4, 'little'))
    assert reading.read_header(path) == Header(1000, 16000, 1)
    assert len(reading.read(path, 16000)) == 1000


@pytest.mark.parametrize('start, stop', [(-1, 5), (5, 5), (6, 5), (0, 101), (100, None)])
def test_ranges_outside_the_recording_are_refused(wav, start, stop):
    with pytest.raises(AudioError, match=r'has \[0, 100\)'):
        reading.read(wav(noise(100)), 16000, start, stop)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('channels', [None, 2])
def test_non_finite_samples_are_refused_with_their_time(wav, value, channels):
    samples = noise(2000, channels)
    samples[(1200,) if channels is None else (1200, 1)] = value
    path = wav(samples, 8000, subtype='FLOAT')
    with pytest.raises(AudioError, match=r'sample 1200 \(at 0\.150 s\)') as error:
        reading.read(path, 16000, 1000)
    assert str(error.value).startswith(path)
    assert np.isfinite(reading.read(path, 16000, 0, 1200)).all()
    with pytest.raises(AudioError, match=r'^x: sample 1200 \(at 0\.150 s\)'):
        reading.from_array(samples, 'x', 8000, 16000)


@pytest.mark.parametrize(
    'dtype', ['int8', 'uint8', 'int16', 'uint16', '>i2', '>u2', 'int32', 'uint32']
)
def test_integer_arrays_are_scaled_by_their_range(dtype):
    info = np.iinfo(dtype)
    samples = np.array([info.min, (info.min + info.max + 1) // 2, info.max], dtype)
    read = reading.from_array(samples, 'x', 16000, 16000)
    np.testing.assert_allclose(read, [-1, 0, 1 - 2.0 ** (1 - info.bits)], atol=1e-7)


def test_an_array_reads_like_its_file(wav):
    samples = np.random.default_rng(1).integers(-32768, 32767, (3000, 2), np.int16)
    np.testing.assert_array_equal(
        reading.from_array(samples, 'x', 8000, 16000), reading.read(wav(samples, 8000), 16000)
    )


@pytest.mark.parametrize(
    'samples, words',
    [
        (np.zeros((2, 3, 4), np.float32), 'neither'),
        (np.zeros((2, 16000), np.float32), 'transpose'),
        (np.zeros((), np.float32), 'neither'),
        (np.zeros(0, np.int16), 'no samples'),
        (np.zeros((5, 0), np.int16), 'no samples'),
        (np.zeros(5, np.int64), 'full scale'),
        (np.zeros(5, bool), 'full scale'),
        (np.zeros(5, np.complex64), 'full scale'),
        (np.full(5, 1e300), 'infinite'),
    ],
)
def test_invalid_arrays_are_refused(samples, words):
    with pytest.raises(AudioError, match=rf'^the clip: .*{words}'):
        reading.from_array(samples, 'the clip', 16000, 16000)


@pytest.mark.parametrize('rate, target', [(0, 16000), (16000, 0), (-8000, 16000)])
def test_rates_below_one_are_refused(rate, target):
    with pytest.raises(AudioError, match=r'^x: '):
        reading.from_array(noise(10), 'x', rate, target)


def test_find_recordings_sorts_folders_and_keeps_named_files(tmp_path, wav):
    for folder in ('d', 'd/sub', 'd/SUB.d'):
        (tmp_path / folder).mkdir()
    for name in (
        'd/b.WAV',
        'd/a.opus',
        'd/c.txt',
        'd/sub/z.flac',
        'd/sub/y.mp3',
        'd/SUB.d/x.aif',
        'd/noise.raw',
        'notes.txt',
    ):
        (tmp_path / name).touch()
    root = str(tmp_path)
    assert reading.find_recordings(
        [tmp_path / 'notes.txt', f'{root}/d', f'{root}/missing.wav']
    ) == [
        f'{root}/notes.txt',
        f'{root}/d/SUB.d/x.aif',
        f'{root}/d/a.opus',
        f'{root}/d/b.WAV',
        f'{root}/d/sub/y.mp3',
        f'{root}/d/sub/z.flac',
        f'{root}/missing.wav',
    ]


def test_find_recordings_follows_links_but_not_cycles(tmp_path):
    (tmp_path / 'd').mkdir()
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'd/a.wav').touch()
    (tmp_path / 'elsewhere/b.wav').touch()
    (tmp_path / 'd/link').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'd/self').symlink_to(tmp_path / 'd')
    (tmp_path / 'elsewhere/back').symlink_to(tmp_path / 'd')
    assert reading.find_recordings([str(tmp_path / 'd')]) == [
        str(tmp_path / 'd/a.wav'),
        str(tmp_path / 'd/link/b.wav'),
    ]


def test_a_folder_without_recordings_is_refused(tmp_path):
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(AudioError, match='no recording') as error:
        reading.find_recordings([tmp_path])
    assert str(error.value).startswith(str(tmp_path)) and '.flac' in str(error.value)

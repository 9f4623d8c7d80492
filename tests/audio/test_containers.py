"""Refuse truncated recordings by their headers where possible, and accept unusual complete ones."""

import struct

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.audio import mpeg_frames as mpeg
from elastic_ast_jax.audio import oddities, reading
from elastic_ast_jax.audio.reading import AudioError

RATE, FRAMES = 16000, 20011
SAMPLES = np.random.default_rng(0).uniform(-0.5, 0.5, (FRAMES, 2)).astype(np.float32)
CUTS = (0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
# Containers whose header or last page shows truncation.
DETECTABLE = [
    ('WAV', 'PCM_U8'),
    ('WAV', 'PCM_16'),
    ('WAV', 'PCM_24'),
    ('WAV', 'PCM_32'),
    ('WAV', 'FLOAT'),
    ('WAV', 'ULAW'),
    ('WAV', 'MS_ADPCM'),
    ('WAV', 'IMA_ADPCM'),
    ('WAVEX', 'PCM_16'),
    ('RF64', 'PCM_16'),
    ('W64', 'PCM_16'),
    ('AIFF', 'PCM_16'),
    ('AIFF', 'FLOAT'),
    ('AU', 'PCM_16'),
    ('CAF', 'PCM_16'),
    ('NIST', 'PCM_16'),
    ('OGG', 'VORBIS'),
    ('OGG', 'OPUS'),
    ('MP3', 'MPEG_LAYER_III'),
]


@pytest.fixture
def make(tmp_path):
    """Return a function that gives the bytes of a recording as soundfile writes it."""

    def write(
        container: str, subtype: str | None = None, samples: np.ndarray = SAMPLES, **kwargs
    ) -> bytes:
        path = tmp_path / 'original'
        soundfile.write(path, samples, RATE, format=container, subtype=subtype, **kwargs)
        return path.read_bytes()

    return write


@pytest.fixture
def save(tmp_path):
    def write(content: bytes) -> str:
        path = tmp_path / 'recording'
        path.write_bytes(content)
        return str(path)

    return write


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack('<I', len(content)) + content + bytes(len(content) % 2)


def without_xing(content: bytes) -> bytes:
    assert b'Xing' in content[:100] or b'Info' in content[:100]
    first_frame = mpeg.parse_frame(content[:4])
    assert first_frame is not None
    return content[first_frame[0] :]


def mpeg_frames(content: bytes) -> list[int]:
    """Return the start of each frame, and the end."""
    positions = [0]
    while frame := mpeg.parse_frame(content[positions[-1] : positions[-1] + 4]):
        positions.append(positions[-1] + frame[0])
    return positions


@pytest.mark.parametrize(('container', 'subtype'), DETECTABLE)
def test_a_truncated_file_is_an_error_before_decoding(make, save, container, subtype):
    whole = make(container, subtype)
    header = reading.read_header(save(whole))
    assert len(reading.read(save(whole), RATE)) == header.frames >= FRAMES
    # Less than two frames may be missing from an MP3.
    for cut in CUTS[:-2] if container == 'MP3' else CUTS:
        path = save(whole[: int(cut * len(whole))])
        with pytest.raises(AudioError) as error:
            reading.read_header(path)
        assert str(error.value).startswith(f'{path}: ')
        if cut >= 0.1:
            assert 'truncated' in str(error.value)


def test_a_truncated_flac_is_an_error_in_decoding(make, save):
    whole = make('FLAC')
    for cut in CUTS:
        with pytest.raises(AudioError, match=r'truncated|cannot read'):
            reading.read(save(whole[: int(cut * len(whole))]), RATE)


def test_the_message_has_both_sizes_and_advice(make, save):
    whole = make('WAV', 'PCM_16')
    with pytest.raises(
        AudioError,
        match=f'promises {4 * FRAMES} bytes of samples and 4000 are present; get it again',
    ):
        reading.read_header(save(whole[:4044]))


@pytest.mark.parametrize('subtype', ['VORBIS', 'OPUS'])
def test_an_ogg_that_ends_with_any_page_but_the_last_is_read_with_a_warning(
    make, save, subtype, caplog
):
    whole = make('OGG', subtype, np.tile(SAMPLES, (4, 1)))
    expected = reading.read(save(whole), RATE)
    pages = [i for i in range(1, len(whole)) if whole.startswith(b'OggS', i)]
    assert len(pages) > 3
    for end in pages[3:]:
        oddities.log_summary()
        caplog.clear()
        samples = reading.read(save(whole[:end]), RATE)
        assert 0 < len(samples) < len(expected)
        np.testing.assert_allclose(samples, expected[: len(samples)], atol=1e-6)
        assert caplog.text.count('not marked as the end') == 1


def test_an_mp3_may_lack_less_than_two_of_the_frames_that_it_notes(make, save):
    whole = make('MP3')
    *ends, last, _ = mpeg_frames(whole)[4:]
    for end in ends:
        with pytest.raises(
            AudioError, match=f'promises {len(whole)} bytes of MPEG audio and {end} are present'
        ):
            reading.read_header(save(whole[:end]))
    for end in (last, last + 40):
        path = save(whole[:end])
        assert len(reading.read(path, RATE)) == reading.read_header(path).frames > FRAMES - 2304


@pytest.mark.parametrize('mode', ['CONSTANT', 'VARIABLE'])
@pytest.mark.parametrize('channels', [1, 2])
def test_an_mp3_without_a_xing_header_is_read_to_its_end(make, save, mode, channels):
    """libsndfile alone would use the bitrate of the first frame to guess the end."""
    samples = np.concatenate([SAMPLES, 0 * SAMPLES, 0 * SAMPLES, 0.01 * SAMPLES])[:, :channels]
    whole = make('MP3', None, samples, bitrate_mode=mode, compression_level=0.5)
    expected, path = reading.read(save(whole), RATE), save(without_xing(whole))
    frames = reading.read_header(path).frames
    assert len(samples) <= frames < len(samples) + 3000
    bare = reading.read(path, RATE)
    assert len(bare) == frames
    # The encoder's delay is no longer noted, so that the samples come slightly later.
    delay = max(range(1500), key=lambda d: float(bare[d + 5000 : d + 9000] @ expected[5000:9000]))
    np.testing.assert_allclose(bare[delay : delay + len(expected)], expected, atol=1e-6)


def test_an_mp3_without_a_xing_header_must_end_with_a_frame(make, save):
    bare = without_xing(make('MP3'))
    ends = mpeg_frames(bare)
    assert ends[-1] == len(bare)
    for end in ends[4:]:
        assert reading.read_header(save(bare[:end])).frames > 0
        for missing in (1, 50):
            with pytest.raises(AudioError, match='its last MPEG frame'):
                reading.read_header(save(bare[: end - missing]))
        with pytest.raises(AudioError, match='its last MPEG frame'):
            reading.read_header(save(bare[:end] + bare[:2]))


@pytest.mark.parametrize('bare', [False, True])
def test_tags_of_mp3s_are_ignored(make, save, bare):
    whole = make('MP3')
    whole = without_xing(whole) if bare else whole
    frames = reading.read_header(save(whole)).frames
    id3 = b'ID3\4\0\0' + bytes((0, 0, 2, 100)) + bytes(256 + 100)
    ape = b'APETAGEX' + bytes(200)
    id3v1 = b'TAG' + bytes(125)
    for content in (
        id3 + whole,
        whole + id3v1,
        id3 + id3 + whole + ape + id3v1,
        whole + bytes(999),
    ):
        path = save(content)
        assert reading.read_header(path).frames == frames
        assert len(reading.read(path, RATE)) == frames
    with pytest.raises(AudioError, match='ID3 tag takes 366 bytes and 200 are present'):
        reading.read_header(save(id3[:200]))


def test_extra_chunks_of_wavs_are_ignored(make, save):
    whole = make('WAV', 'PCM_16')
    form, data = whole[12:36], whole[36:]
    note = chunk(b'LIST', b'INFOICMT' + struct.pack('<I', 5) + b'abcd\0')
    unpadded = b'note' + struct.pack('<I', 3) + b'odd'
    for parts in (
        (note, form, data),
        (form, note, data, note),
        (form, data, b'junk that is no chunk'),
        (form, data, note[:10]),
        (chunk(b'PAD ', bytes(5)), form, data),
    ):
        content = b''.join(parts)
        path = save(b'RIFF' + struct.pack('<I', 4 + len(content)) + b'WAVE' + content)
        assert len(reading.read(path, RATE)) == FRAMES
        if parts[-1] == data:
            with pytest.raises(AudioError, match='truncated'):
                reading.read_header(save(b'RIFF' + bytes(4) + b'WAVE' + content[:-400]))
    path = save((b'RIFF' + bytes(4) + b'WAVE' + form + unpadded + data)[:-400])
    with pytest.raises(AudioError, match='truncated'):
        reading.read_header(path)


@pytest.mark.parametrize('size', [0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_unknown_sizes_of_pipes_are_accepted(make, save, size):
    for container, at, order in (('WAV', 40, '<'), ('AU', 8, '>')):
        whole = bytearray(make(container, 'PCM_16'))
        whole[at : at + 4] = struct.pack(f'{order}I', size if container == 'WAV' else 0xFFFFFFFF)
        assert len(reading.read(save(bytes(whole)), RATE)) == FRAMES


@pytest.mark.parametrize('subtype', ['VORBIS', 'OPUS'])
def test_all_links_of_a_chained_ogg_are_read(make, save, subtype):
    long, short = make('OGG', subtype), make('OGG', subtype, 0.1 * SAMPLES[:7000])
    parts = [reading.read(save(content), RATE) for content in (long, short, long)]
    expected, path = np.concatenate(parts), save(long + short + long)
    assert reading.read_header(path).frames == len(expected)
    np.testing.assert_array_equal(reading.read(path, RATE), expected)
    for start in (0, 5000, FRAMES, FRAMES + 6999, FRAMES + 7000, len(expected) - 1):
        np.testing.assert_array_equal(
            reading.read(path, RATE, start, min(start + 9000, len(expected))),
            expected[start : start + 9000],
        )
    for broken in (long[:-300] + short, long + short[:-300]):
        with pytest.raises(AudioError, match='truncated'):
            reading.read_header(save(broken))


def test_absurd_headers_are_refused_before_allocation(make, save):
    flac = bytearray(make('FLAC'))
    flac[21] |= 0x0F
    flac[22:26] = b'\xff' * 4  # 2 ** 36 - 1 frames
    path = save(bytes(flac))
    for call in (reading.read_header, lambda path: reading.read(path, RATE)):
        with pytest.raises(
            AudioError,
            match=f'promises 68719476735 samples and its last frame ends at sample {FRAMES}',
        ):
            call(path)
    for rate in (1, 99, 10_000_001, 2_000_000_000):
        whole = bytearray(make('WAV', 'PCM_16'))
        whole[24:28] = struct.pack('<I', rate)
        with pytest.raises(AudioError, match=f'says {rate} Hz'):
            reading.read_header(save(bytes(whole)))


def test_small_files_with_any_magic_bytes_are_errors(save):
    for begin in (
        b'RIFF\0\0\0\0WAVE',
        b'RF64',
        b'riff',
        b'FORM\0\0\0\0AIFF',
        b'caff',
        b'.snd',
        b'NIST_1A\n',
        b'OggS',
        b'ID3',
        b'\xff\xfb\x90\0',
        b'\xff\xfb\x90',
        b'fLaC',
    ):
        for more in (b'', b'\0', b'\xff' * 50, bytes(50), b'data' * 30):
            path = save(begin + more)
            with pytest.raises(AudioError) as error:
                reading.read_header(path)
            assert str(error.value).startswith(f'{path}: ')

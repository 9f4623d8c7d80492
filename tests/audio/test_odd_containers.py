"""Read all that odd files hold, with a warning; refuse what is no recording, with the reason."""

import contextlib
import errno
import io
import os
import shlex
import shutil
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.audio import joined, mpeg_frames, oddities, opening, reading
from elastic_ast_jax.audio.reading import AudioError

RATE = 16000


def tone(seconds, hertz=440.0, rate=RATE):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def stereo(samples):
    return np.stack([samples, samples], axis=1)


@pytest.fixture
def make(tmp_path):
    """Return a function that gives the bytes of a recording as soundfile writes it."""

    def write(container, samples, rate=RATE, **options):
        path = tmp_path / 'original'
        soundfile.write(path, samples, rate, format=container, **options)
        return path.read_bytes()

    return write


@pytest.fixture
def check(tmp_path, caplog):
    """Return a function that reads a file, checks length and warning, and returns the waveform."""

    def read(content, seconds, warning, tolerance=0.05, name='recording'):
        path = tmp_path / name
        path.write_bytes(content)
        oddities.log_summary()
        caplog.clear()
        header = reading.read_header(path)
        waveform = reading.read(path, header.sample_rate)
        assert len(waveform) == header.frames
        assert abs(header.seconds - seconds) <= tolerance
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == (1 if warning else 0), messages
        assert header.odd == bool(warning)
        assert all(warning in message and str(path) in message for message in messages)
        blocks = np.concatenate(list(reading.read_blocks(path, header.sample_rate, 5000)))
        np.testing.assert_allclose(blocks, waveform, atol=1e-6)
        middle = header.frames // 2
        stop = min(middle + 500, header.frames)
        part = reading.read(path, header.sample_rate, middle, stop)
        np.testing.assert_allclose(part, waveform[middle:stop], atol=1e-6)
        return waveform

    return read


@pytest.fixture
def refuse(tmp_path):
    """Return a function that checks the error of a file."""

    def read(content, message, name='recording'):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(AudioError, match=message) as error:
            reading.read(path, RATE)
        assert str(error.value).startswith(f'{path}: ')

    return read


# OGG


def ogg_crc(page):
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return crc


def ogg_page(content, flags, granule, sequence, serial=7, *, open_packet=False):
    lacing = bytes([255] * (len(content) // 255) + ([] if open_packet else [len(content) % 255]))
    head = struct.pack('<4sBBqIIIB', b'OggS', 0, flags, granule, serial, sequence, 0, len(lacing))
    page = head + lacing + content
    return page[:22] + struct.pack('<I', ogg_crc(page)) + page[26:]


def without_end_flag(data):
    at = data.rfind(b'OggS')
    page = bytearray(data[at:])
    page[5] &= ~4
    page[22:26] = bytes(4)
    page[22:26] = struct.pack('<I', ogg_crc(page))
    return data[:at] + bytes(page)


@pytest.mark.parametrize('subtype', ['VORBIS', 'OPUS'])
def test_an_ogg_without_an_end_flag_is_read_whole(make, check, subtype):
    whole = make('OGG', tone(2.0), subtype=subtype)
    expected = check(whole, 2.0, '', 0)
    waveform = check(without_end_flag(whole), 2.0, 'not marked as the end', 0)
    np.testing.assert_array_equal(waveform, expected)


def test_an_ogg_that_lacks_a_part_of_a_page_or_a_page_in_the_middle_is_refused(make, refuse):
    whole = make('OGG', np.random.default_rng(0).uniform(-0.5, 0.5, 5 * RATE))
    pages = [i for i in range(len(whole)) if whole.startswith(b'OggS', i)]
    refuse(whole[: len(whole) * 2 // 3], 'truncated')
    for first, last in ((3, 4), (4, 6)):
        refuse(whole[: pages[first]] + whole[pages[last] :], 'truncated: pages are missing')
    damaged = bytearray(without_end_flag(whole))
    damaged[pages[-1]] = 0
    refuse(bytes(damaged), 'damaged, or pages behind it are missing')
    damaged = bytearray(whole)
    damaged[pages[3]] = 0
    refuse(bytes(damaged), 'damaged, or pages behind it are missing')


@pytest.mark.parametrize('subtype', ['VORBIS', 'OPUS'])
def test_an_ogg_that_ends_within_a_packet_is_read_up_to_it(make, check, subtype):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE)
    whole = make('OGG', samples, subtype=subtype)
    expected = check(whole, 4.0, '', 0)
    starts = [i for i in range(len(whole)) if whole.startswith(b'OggS', i)]
    page = whole[starts[-2] : starts[-1]]
    lacing = page[27 : 27 + page[26]]
    content = page[27 + len(lacing) :]
    # A packet of which 510 bytes are present follows the last one of the page.
    head = page[:22] + bytes(4) + bytes((len(lacing) + 2,)) + lacing + b'\xff\xff'
    page = head + content + bytes(510)
    page = page[:22] + struct.pack('<I', ogg_crc(page)) + page[26:]
    rate = 48000 if subtype == 'OPUS' else RATE
    granule = int.from_bytes(page[6:14], 'little')
    skipped = int.from_bytes(whole[whole.find(b'OpusHead') + 10 :][:2], 'little')
    seconds = (granule - (skipped if subtype == 'OPUS' else 0)) / rate
    cut = whole[: starts[-2]] + page
    waveform = check(cut, seconds, 'the last OGG page ends within a packet', 0.001)
    np.testing.assert_allclose(waveform, expected[: len(waveform)], atol=1e-6)


def test_other_bytes_between_pages_are_skipped(make, check):
    whole = make('OGG', np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE))
    at = [i for i in range(len(whole)) if whole.startswith(b'OggS', i)][3]
    expected = check(whole, 2.0, '', 0)
    waveform = check(whole[:at] + b'junk' * 9 + whole[at:], 2.0, 'were skipped: 36 bytes', 0)
    np.testing.assert_array_equal(waveform, expected)


def test_links_of_different_channels_and_rates_are_joined(make, check, tmp_path):
    mono, two = make('OGG', tone(2.0)), make('OGG', stereo(tone(1.0, 660)))
    high = make('OGG', tone(1.5, 550, 44100), 44100)
    alone = {content: check(content, seconds, '', 0) for content, seconds in ((mono, 2), (two, 1))}
    waveform = check(mono + two, 3.0, '', 0)
    np.testing.assert_array_equal(waveform, np.concatenate([alone[mono], alone[two]]))

    (tmp_path / 'high').write_bytes(high)
    (tmp_path / 'chain').write_bytes(mono + high + two)
    header = reading.read_header(tmp_path / 'chain')
    assert (header.sample_rate, header.channels) == (44100, 2)
    assert header.seconds == pytest.approx(4.5, abs=0.001)
    waveform = reading.read(tmp_path / 'chain', RATE)
    expected = [alone[mono], reading.read(tmp_path / 'high', RATE), alone[two]]
    assert len(waveform) == len(np.concatenate(expected))
    # Each is resampled from its own rate: the first and last are not resampled at all.
    np.testing.assert_allclose(waveform, np.concatenate(expected), atol=1e-6)
    for start, stop in ((10_000, 100_000), (100_000, 170_000)):
        part = reading.read(tmp_path / 'chain', RATE, start, stop)
        assert len(part) == -(-(stop - start) * RATE // 44100)
        offset = round(start * RATE / 44100)
        middle = slice(200, len(part) - 200)
        np.testing.assert_allclose(part[middle], waveform[offset:][middle], atol=0.03)


def at_other_times(data, shift):
    """Return an OGG whose pages of sound are later, as in a part of a recording that was copied."""
    changed, starts = b'', [i for i in range(len(data)) if data.startswith(b'OggS', i)]
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        page = data[start:end]
        granule = int.from_bytes(page[6:14], 'little', signed=True)
        if granule > 0:
            page = (
                page[:6] + struct.pack('<q', granule + shift) + page[14:22] + bytes(4) + page[26:]
            )
            page = page[:22] + struct.pack('<I', ogg_crc(page)) + page[26:]
        changed += page
    return changed


@pytest.mark.parametrize('subtype', ['VORBIS', 'OPUS'])
@pytest.mark.parametrize('shift', [5000, -1500, 48_000 * 3600])
def test_an_ogg_that_begins_at_another_time_is_read_whole(make, check, subtype, shift):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * RATE)
    whole = make('OGG', noise, subtype=subtype)
    expected = check(whole, 3.0, '', 0)
    warning = 'holds more than its time allows' if shift < 0 else ''
    changed = at_other_times(whole, shift)
    np.testing.assert_array_equal(check(changed, 3.0, warning, 0), expected)
    if not warning:
        unmarked = check(without_end_flag(changed), 3.0, 'not marked as the end', 0)
        np.testing.assert_array_equal(unmarked, expected)


@pytest.mark.parametrize('rate', [RATE, 48000])
def test_an_opus_of_one_page_is_read_to_the_sample(make, check, rate):
    whole = make('OGG', tone(0.3, rate=rate), rate, subtype='OPUS')
    expected = check(whole, 0.3, '', 0)
    assert len(expected) == 0.3 * rate
    # The end of the page, which may be earlier than the last sample, is later than all of them.
    waveform = check(at_other_times(whole, 9600), 0.3, '', 0.03)
    assert len(waveform) >= len(expected)
    np.testing.assert_array_equal(waveform[: len(expected)], expected)
    shorter = check(at_other_times(whole, -4800), 0.2, '', 0)
    np.testing.assert_array_equal(shorter, expected[: len(shorter)])


# Of Vorbis of one page, ffmpeg loses the last block.
@pytest.mark.parametrize(
    ('subtype', 'cut'),
    [
        ('OPUS', ['-t', '0.3']),
        ('OPUS', ['-ss', '1', '-t', '0.5']),
        ('OPUS', ['-ss', '0.5']),
        ('VORBIS', ['-ss', '0.5']),
        ('VORBIS', ['-ss', '1', '-t', '1.5']),
    ],
)
@pytest.mark.parametrize('order', ['before', 'after'])
def test_a_copied_part_of_an_ogg_is_read_as_ffmpeg_does(make, tmp_path, subtype, cut, order):
    if not shutil.which('ffmpeg'):
        pytest.skip('ffmpeg is not installed')
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * 48000)
    (tmp_path / 'whole.ogg').write_bytes(make('OGG', noise, 48000, subtype=subtype))
    source = ['-i', 'whole.ogg']
    words = [*cut, *source] if order == 'before' else [*source, *cut]
    for command in (
        [*words, '-c', 'copy', 'part.ogg'],
        ['-i', 'part.ogg', '-c:a', 'pcm_f32le', 'part.wav'],
    ):
        arguments = ['ffmpeg', '-v', 'error', *command]
        subprocess.run(arguments, cwd=tmp_path, check=True, timeout=60)
    waveform = reading.read(tmp_path / 'part.ogg', 48000)
    np.testing.assert_allclose(waveform, reading.read(tmp_path / 'part.wav', 48000), atol=1e-5)


def ogg_flac(content):
    """Put a FLAC into OGG as its mapping says: a packet for each block and frame."""
    at, blocks = 4, []
    while True:
        end = at + 4 + int.from_bytes(content[at + 1 : at + 4], 'big')
        blocks.append(content[at:end])
        if content[at] & 0x80:
            break
        at = end
    head = b'\x7fFLAC\1\0' + struct.pack('>H', len(blocks) - 1) + b'fLaC' + blocks[0]
    pages = [ogg_page(head, 2, 0, 0)]
    pages += [ogg_page(block, 0, 0, i) for i, block in enumerate(blocks[1:], 1)]
    frames = content[end:]
    for i in range(0, len(frames), 25500):  # a long packet over several pages
        last = i + 25500 >= len(frames)
        number = len(pages)
        granule = RATE if last else -1
        pages.append(
            ogg_page(frames[i : i + 25500], 5 if last else 1, granule, number, open_packet=not last)
        )
    return b''.join(pages)


@pytest.mark.parametrize('known', [True, False])
def test_flac_in_ogg_is_read(make, check, known):
    flac = bytearray(make('FLAC', np.random.default_rng(0).uniform(-0.5, 0.5, RATE)))
    expected = check(bytes(flac), 1.0, '', 0)
    if not known:
        flac[21] &= 0xF0
        flac[22:26] = bytes(4)
    waveform = check(ogg_flac(bytes(flac)), 1.0, '' if known else 'does not note the length', 0)
    np.testing.assert_array_equal(waveform, expected)
    check(ogg_flac(bytes(flac)) * 2, 2.0, '' if known else 'does not note the length', 0)


def test_streams_beside_the_sound_are_left_out(make, check):
    whole = make('OGG', np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE))
    expected = check(whole, 2.0, '', 0)
    starts = [i for i in range(len(whole)) if whole.startswith(b'OggS', i)]
    begin, rest = whole[: starts[1]], whole[starts[1] :]
    skeleton = [ogg_page(b'fishead\0' + bytes(56), 2, 0, 0), ogg_page(b'fisbone\0', 0, 0, 1)]
    end = ogg_page(b'', 4, 0, 2)
    waveform = check(skeleton[0] + begin + skeleton[1] + end + rest, 2.0, '', 0)
    np.testing.assert_array_equal(waveform, expected)


# MP3


@pytest.fixture
def mp3(make):
    """Return an MP3 of 4 s with a note of its frames: the bytes, and the position of the number."""
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, 4 * RATE)
    content = make('MP3', noise, bitrate_mode='VARIABLE', compression_level=0.5)
    return content, max(content.find(b'Xing'), content.find(b'Info')) + 8


def with_frames(mp3, change):
    content, at = mp3
    frames = int.from_bytes(content[at : at + 4], 'big') + change
    return content[:at] + frames.to_bytes(4, 'big') + content[at + 4 :]


WRONG = 'that its first frame notes is wrong'


def test_frames_behind_those_that_an_mp3_notes_are_read(mp3, check):
    content, at = mp3
    whole = check(content, 4.0, '', 0)
    frames = int.from_bytes(content[at : at + 4], 'big')
    joined = check(content + content, 8.1, f'{WRONG}: {frames} noted, {2 * frames + 1} read')
    np.testing.assert_allclose(joined[: len(whole) - 2000], whole[:-2000], atol=1e-6)
    tagged = content + b'TAG' + bytes(125) + b'ID3\4\0\0\0\0\0\x0a' + bytes(10) + content
    np.testing.assert_array_equal(check(tagged, 8.1, WRONG), joined)
    np.testing.assert_array_equal(check(with_frames(mp3, -(frames // 2)), 4.0, WRONG, 0), whole)


@pytest.mark.parametrize('change', [1, -1, 500])
def test_a_wrong_number_of_frames_in_an_mp3_is_a_warning_if_all_bytes_are_present(
    mp3, check, change
):
    whole = check(mp3[0], 4.0, '', 0)
    np.testing.assert_array_equal(check(with_frames(mp3, change), 4.0, WRONG, 0), whole)


def test_missing_frames_in_the_middle_of_an_mp3_are_refused(mp3, refuse, check):
    content, position, starts = mp3[0], 0, []
    while parsed := mpeg_frames.parse_frame(content[position : position + 4]):
        starts.append(position)
        position += parsed[0]
    without = content[: starts[20]] + content[starts[24] :]
    refuse(without, r'promises \d+ bytes of MPEG audio and \d+ are present')
    damaged = bytearray(content)
    for start in starts[20:24]:
        damaged[start] = 0
    refuse(bytes(damaged), r'promises \d+ MPEG frames and \d+ are present')


def test_mp3s_of_different_kinds_are_joined(make, check):
    low, high = make('MP3', tone(2.0)), make('MP3', stereo(tone(1.0, rate=44100)), 44100)
    check(low + high + low, 5.0, 'MPEG audio of several kinds is joined', 0.001)


def layer2(frames, padding=False):
    """Return silent MPEG-1 layer II frames of 44.1 kHz and 128 kbit/s."""
    header = bytes((0xFF, 0xFD, 0x80 | 2 * padding, 0xC0))
    parsed = mpeg_frames.parse_frame(header)
    assert parsed is not None
    return (header + bytes(parsed[0] - 4)) * frames


def test_mpeg_layer_2_is_read_to_its_end(check):
    for content in (
        layer2(50),
        layer2(50, padding=True) + layer2(60),
        layer2(50) + b'TAG' + bytes(125),
    ):
        frames = sum(content[i : i + 2] == b'\xff\xfd' for i in range(len(content)))
        check(content, frames * 1152 / 44100, '', 0, name='recording.mp2')


def test_libmpg123_writes_no_notes_for_odd_files(mp3, tmp_path, capfd):
    content, _ = mp3
    for changed in (
        content + content,
        with_frames(mp3, -40),
        with_frames(mp3, 1),
        content + bytes(999),
        content + b'APETAGEX' + bytes(300),
        content[: len(content) // 2] + b'junk' * 70 + content[len(content) // 2 :],
        content[417:],
    ):
        (tmp_path / 'a.mp3').write_bytes(changed)
        with contextlib.suppress(AudioError):
            reading.read(tmp_path / 'a.mp3', RATE)
    assert not capfd.readouterr().err


# Sizes of zero, and sizes that mean an unknown length


def put(content, position, field):
    return content[:position] + field + content[position + len(field) :]


UNFINISHED = {
    'WAV 0': ('WAV', b'data', 4, [struct.pack('<I', 0)]),
    'WAV': ('WAV', b'data', 4, [struct.pack('<I', n) for n in (0xFFFFFFFF, 0x7FFFFFFF)]),
    'WAVEX': ('WAVEX', b'data', 4, [struct.pack('<I', n) for n in (0, 0xFFFFFFFF)]),
    'RF64': ('RF64', b'ds64', 16, [struct.pack('<Q', n) for n in (0, 2**63 - 1, 2**64 - 1)]),
    'W64': (
        'W64',
        b'data\xf3\xac\xd3\x11',
        16,
        [struct.pack('<q', n) for n in (0, -1, 24, 2**63 - 1)],
    ),
    'AIFF': ('AIFF', b'SSND', 4, [struct.pack('>I', n) for n in (0, 8, 0xFFFFFFFF)]),
    'AU': ('AU', b'.snd', 8, [struct.pack('>I', n) for n in (0, 0x7FFFFFFF, 0xFFFFFFFF)]),
    'CAF': ('CAF', b'data', 4, [struct.pack('>q', n) for n in (0, 4, -1, 2**63 - 1)]),
    'SVX': ('SVX', b'BODY', 4, [struct.pack('>I', n) for n in (0, 0xFFFFFFFF)]),
}


@pytest.mark.parametrize('case', UNFINISHED)
def test_samples_behind_a_header_that_was_never_finished_are_read(make, check, case):
    container, name, offset, fields = UNFINISHED[case]
    whole = make(container, tone(1.0), subtype='PCM_16')
    position = whole.find(name) + offset
    expected = check(whole, 1.0, '', 0)
    for field in fields:
        waveform = check(put(whole, position, field), 1.0, 'header was never finished', 0)
        np.testing.assert_array_equal(waveform, expected)


@pytest.mark.parametrize('length', [None, 2**63 - 1])
def test_extensible_floats_in_w64_are_floats(make, check, length):
    """libsndfile takes their bits for integers."""
    whole = make('W64', tone(1.0), subtype='FLOAT')
    expected = check(whole, 1.0, '', 0)
    at = whole.find(b'fmt \xf3\xac\xd3\x11')
    subformat = bytes.fromhex('0300000000001000800000aa00389b71')
    extension = struct.pack('<HHI', 22, 32, 4) + subformat
    extensible = b'\xfe\xff' + whole[at + 26 : at + 40] + extension
    chunk = whole[at : at + 16] + struct.pack('<q', 24 + len(extensible)) + extensible
    data = whole.find(b'data\xf3\xac\xd3\x11')
    content = whole[:at] + chunk + whole[data:]
    if length:
        content = put(content, len(whole[:at] + chunk) + 16, struct.pack('<q', length))
    waveform = check(content, 1.0, 'never finished' if length else '', 0)
    np.testing.assert_array_equal(waveform, expected)


def test_a_recording_without_samples_in_front_of_other_chunks_is_empty(make, refuse):
    whole = make('WAV', tone(1.0)[:0], subtype='PCM_16')
    refuse(whole, 'no samples')
    refuse(whole + b'LIST' + struct.pack('<I', 4) + b'INFO', 'no samples')


@pytest.mark.parametrize('samples', [100, RATE, 3 * RATE])
@pytest.mark.parametrize('noted', ['nothing', 'less'])
def test_the_samples_of_a_flac_are_counted(make, check, samples, noted):
    content = make('FLAC', stereo(tone(3.0))[:samples])
    expected = check(content, samples / RATE, '', 0)
    field = bytes((content[21] & 0xF0,)) + (samples // 2 if noted == 'less' else 0).to_bytes(
        4, 'big'
    )
    warning = 'notes a wrong length' if noted == 'less' else 'does not note the length'
    for tail in (b'', b'TAG' + bytes(125)):
        waveform = check(put(content, 21, field) + tail, samples / RATE, warning, 0)
        np.testing.assert_array_equal(waveform, expected)


def test_a_truncated_flac_is_refused_before_decoding(make, tmp_path):
    content = make('FLAC', np.random.default_rng(0).uniform(-0.5, 0.5, 3 * RATE))
    (tmp_path / 'a.flac').write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match='promises 48000 samples and its last frame ends at'):
        reading.read_header(tmp_path / 'a.flac')


# Joined recordings

JOINED = 'several recordings are joined in one file: {} parts, all of which are read'
CONTAINERS = ['WAV', 'WAVEX', 'RF64', 'W64', 'AIFF', 'AU', 'CAF', 'FLAC']


@pytest.mark.parametrize('container', CONTAINERS)
def test_joined_recordings_of_several_rates_are_read_each_from_its_own(
    make, check, tmp_path, container
):
    """As chained OGG and joined MP3s; libsndfile reads the first one, noise, or nothing."""
    low = make(container, tone(1.0), subtype='PCM_16')
    two = make(container, stereo(tone(0.5, 660)), subtype='PCM_16')
    high = make(container, tone(1.5, 550, 44100), 44100, subtype='PCM_16')
    alone = {content: check(content, seconds, '', 0) for content, seconds in ((low, 1), (two, 0.5))}
    waveform = check(low + two, 1.5, JOINED.format(2), 0)
    np.testing.assert_array_equal(waveform, np.concatenate([alone[low], alone[two]]))

    (tmp_path / 'high').write_bytes(high)
    expected = [alone[low], reading.read(tmp_path / 'high', RATE), alone[two]]
    (tmp_path / 'joined').write_bytes(low + high + two)
    header = reading.read_header(tmp_path / 'joined')
    assert (header.sample_rate, header.channels, header.odd) == (44100, 2, True)
    waveform = reading.read(tmp_path / 'joined', RATE)
    np.testing.assert_allclose(waveform, np.concatenate(expected), atol=1e-6)


@pytest.mark.parametrize('first', ['WAV', 'FLAC', 'AU', 'AIFF'])
def test_joined_recordings_of_several_containers(make, check, refuse, first):
    content, last = make(first, tone(1.0)), make('WAV', tone(3.0))
    tag = b'ID3\4\0\0\0\0\0\x0a' + bytes(10)
    whole = content + tag + make('FLAC', tone(2.0)) + tag + make('OGG', tone(1.0))
    check(whole, 4.0, JOINED.format(3), 0)
    whole = content + make('FLAC', tone(2.0)) + last
    check(whole, 6.0, JOINED.format(3), 0)
    refuse(whole[:-1000], r'part 3 of 3 joined recordings, at byte \d+: .* truncated')


NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * RATE)
SOUNDS = {
    'noise': NOISE,
    'silence': np.zeros(20 * RATE),
    'swell': NOISE * np.linspace(0, 1, 20 * RATE) ** 3,
    'silence and noise': np.where(np.arange(20 * RATE) < 15 * RATE, 0, NOISE),
    'tone': tone(20.0),
}


@pytest.mark.parametrize('first', SOUNDS)
@pytest.mark.parametrize('second', SOUNDS)
def test_flacs_of_equal_lengths_that_are_joined_are_noticed(make, tmp_path, first, second):
    """The last frame ends where the header of the first one says."""
    parts = [make('FLAC', SOUNDS[name]) for name in (first, second)]
    for chosen in ([parts[0]] * 2, parts, [*parts, parts[0]]):
        (tmp_path / 'a.flac').write_bytes(b''.join(chosen))
        assert reading.read_header(tmp_path / 'a.flac').frames == len(chosen) * 20 * RATE


@pytest.mark.parametrize('sound', SOUNDS)
def test_a_single_flac_is_not_read_whole_for_its_length(make, sound):
    content, reads = make('FLAC', SOUNDS[sound]), []

    def read(position, count):
        reads.append(len(content[position : position + count]))
        return content[position : position + count]

    assert joined.parts(read, len(content)) == [(0, len(content))]
    assert sum(reads) < 1 << 17


# No recordings


@pytest.mark.parametrize('name', ['page.mp3', 'page.wav', 'page.snd', 'page.vox'])
def test_a_web_page_is_named(refuse, name):
    page = b'<!DOCTYPE html><html><body>404 Not Found</body></html>\n'
    refuse(page, r'is a web page \(HTML\), not a recording: the download failed', name)


def test_a_git_lfs_pointer_is_named(refuse):
    pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 32044\n' % 0
    refuse(pointer, r'is a Git LFS pointer: run git lfs pull', 'pointer.wav')


def test_bytes_without_a_header_are_not_taken_for_telephone_speech(refuse):
    for name in ('a.au', 'a.snd'):
        refuse(bytes(range(256)) * 10, 'header is missing', name)


@pytest.mark.parametrize(
    ('head', 'name'),
    [
        (b'\0\0\0\x20ftypM4A ', r'MP4 \(M4A'),
        (b'\x1aE\xdf\xa3', 'Matroska or WebM'),
        (b'\xff\xf1\x50\x80', 'AAC'),
        (b'wvpk', 'WavPack'),
    ],
)
def test_formats_that_libsndfile_does_not_read_are_named(refuse, head, name):
    command = 'for example with ffmpeg -i a.sound a.wav'
    refuse(head + bytes(500), f'is {name}.*{command}', 'a.sound')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('a.g722', r'is G\.722 .* always of 16000 Hz.* ffmpeg -f g722 -i a\.g722 a\.wav$'),
        ('a.G722', r'ffmpeg -f g722 -i a\.G722 a\.wav$'),
        ('a.g726', r'is G\.726 .* ffmpeg -f g726 -code_size 4 -ar 8000 -i a\.g726 a\.wav \(set'),
        ('a.g726le', 'ffmpeg -f g726le -code_size 4 -ar 8000'),
        ('a.ulaw', r'is mu-law .* -f mulaw -ar 8000 -i a\.ulaw a\.wav \(set -ar to its sample'),
        ('a b.pcm', r"raw samples .* -f s16le -ar 16000 -ac 1 -i 'a b\.pcm' 'a b\.wav' \(set -f"),
        ('-a.raw', r'so rate and format are unknown: .* -i \./-a\.raw \./-a\.wav'),
    ],
)
def test_sound_without_a_header_is_named_by_its_extension(refuse, name, message):
    for content in (b'\xfa' * 500, b'\xff\xf1' * 250):
        refuse(content, message, name)


@pytest.mark.parametrize(('codec', 'name'), [(0x45, 'G.726'), (0x28F, 'G.722'), (0xFF, 'AAC')])
def test_codecs_in_wav_that_libsndfile_does_not_read_are_named(refuse, codec, name):
    form = struct.pack('<HHIIHHH', codec, 1, 8000, 4000, 1, 4, 0)
    head = b'RIFF' + struct.pack('<I', 538) + b'WAVEfmt ' + struct.pack('<I', 18) + form
    content = head + b'data' + struct.pack('<I', 500) + bytes(500)
    refuse(content, f'is {name} in WAV, .*ffmpeg -i a.wav a_pcm.wav', 'a.wav')


def test_ffmpeg_reads_sound_without_a_header_as_the_message_says(refuse, tmp_path):
    if not shutil.which('ffmpeg'):
        pytest.skip('ffmpeg is not installed')
    soundfile.write(tmp_path / 'tone.wav', tone(1.0), RATE)
    for name, rate in (('a.g722', 16000), ('a.g726', 8000)):
        options = ['-ar', str(rate), '-f', name.partition('.')[2]]
        encode = ['ffmpeg', '-v', 'error', '-i', 'tone.wav', *options, name]
        subprocess.run(encode, cwd=tmp_path, check=True, timeout=60)
        with pytest.raises(AudioError) as error:
            reading.read(tmp_path / name, RATE)
        command = str(error.value).partition('for example with ')[2].partition(' (')[0]
        subprocess.run([*shlex.split(command), '-y'], cwd=tmp_path, check=True, timeout=60)
        assert reading.read_header(tmp_path / 'a.wav') == reading.Header(rate, rate, 1)


# Scale


def test_integers_as_floats_are_a_warning_once_a_run(tmp_path, caplog):
    oddities.log_summary()
    caplog.clear()
    for i in range(12):
        soundfile.write(tmp_path / f'{i:02}.wav', tone(0.1) * 32767, RATE, subtype='FLOAT')
        reading.read(tmp_path / f'{i:02}.wav', RATE)
        reading.read(tmp_path / f'{i:02}.wav', RATE)
    for start in range(0, 1600, 400):
        samples = tone(0.1)[start : start + 400] * 32767
        reading.from_array(samples, 'array 3', RATE, RATE, f'[{start}:{start + 400}]')
    first = caplog.messages
    oddities.log_summary()
    assert first == [
        f'{tmp_path}/00.wav: samples reach 9830: 16-bit integers as floats? divide by 32768'
    ]
    assert caplog.messages[1:] == [
        '13 recordings: 16-bit integers as floats? divide by 32768'
        f' ({tmp_path}/00.wav, {tmp_path}/01.wav, {tmp_path}/02.wav and 10 more)'
    ]
    reading.from_array(1.5 * tone(0.1), 'mix', RATE, RATE)
    reading.from_array(np.array([12000], np.int16), 'integers', RATE, RATE)
    assert len(caplog.messages) == 2


def test_each_recording_is_reported_once_and_all_are_summed_up(caplog):
    oddities.log_summary()
    caplog.clear()
    for _ in range(2):
        for i in range(25):
            oddities.report(f'{i}.wav', 'is odd', f'is odd in way {i}')
    oddities.report('a\n.wav', 'is alone')
    assert caplog.messages[:10] == [f'{i}.wav: is odd in way {i}' for i in range(10)]
    assert caplog.messages[10:] == ['a\\n.wav: is alone']
    oddities.log_summary()
    oddities.log_summary()
    assert caplog.messages[11:] == ['25 recordings: is odd (0.wav, 1.wav, 2.wav and 22 more)']


def fail_behind(monkeypatch, position):
    """Let all reads behind a position of a file fail, as a disk or a network does."""

    class Failing(io.FileIO):
        def read(self, size=-1):
            if self.tell() + size > position:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    monkeypatch.setattr(opening, 'open', lambda path, *_, **__: Failing(path), raising=False)


def test_the_reason_of_the_system_is_named_where_libsndfile_loses_it(make, tmp_path, monkeypatch):
    content = make('FLAC', np.random.default_rng(0).uniform(-0.5, 0.5, RATE))
    damaged = put(content, 9000, bytes(40))
    (tmp_path / 'a.flac').write_bytes(damaged)
    with pytest.raises(AudioError, match='decoding'):
        reading.read(tmp_path / 'a.flac', RATE)
    fail_behind(monkeypatch, 9000)
    with pytest.raises(AudioError, match=r'cannot be read \(Input/output error\)') as error:
        reading.read(tmp_path / 'a.flac', RATE)
    assert isinstance(error.value.__cause__, OSError)
    assert error.value.__cause__.errno == errno.EIO


def test_an_error_of_the_disk_ends_a_spliced_file(make, tmp_path, monkeypatch):
    content = make('WAV', tone(1.0), subtype='PCM_16')
    (tmp_path / 'a.wav').write_bytes(put(content, 40, bytes(4)))
    pread = os.pread

    def fail(descriptor, count, position):
        if position > 9000:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, count, position)

    monkeypatch.setattr(os, 'pread', fail)
    with pytest.raises(AudioError, match='decoding ends at frame'):
        reading.read(tmp_path / 'a.wav', RATE)


def test_unseekable_formats_are_read_in_parts(tmp_path):
    soundfile.write(tmp_path / 'a.xi', tone(0.5), 44100, format='XI', subtype='DPCM_16')
    whole = reading.read(tmp_path / 'a.xi', 44100)
    np.testing.assert_array_equal(
        reading.read(tmp_path / 'a.xi', 44100, 3000, 5000), whole[3000:5000]
    )

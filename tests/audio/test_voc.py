"""The blocks of a VOC file are one recording."""

import numpy as np
import pytest

from elastic_ast_jax.audio import reading

RATE = 10_000  # which the 8-bit format can note exactly
SAMPLES = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8)
FORMS = {
    1: bytes((256 - 1_000_000 // RATE, 0)),  # time constant, 8 bits
    9: RATE.to_bytes(4, 'little') + bytes((16, 1, 4, 0, 0, 0, 0, 0)),  # 16 bits, mono
}


def block(kind: int, content: bytes) -> bytes:
    return bytes((kind,)) + len(content).to_bytes(3, 'little') + content


def voc(*blocks: bytes) -> bytes:
    return b'Creative Voice File\x1a\x1a\0\x14\x01\x1f\x11' + b''.join(blocks) + b'\0'


@pytest.fixture
def read(tmp_path):
    def read_content(content: bytes) -> np.ndarray:
        path = tmp_path / 'a.voc'
        path.write_bytes(content)
        samples = reading.read(path, RATE)
        assert reading.read_header(path).frames == len(samples)
        return samples

    return read_content


def samples_of(kind: int) -> np.ndarray:
    if kind == 1:
        return (SAMPLES.astype(np.float32) - 128) / 128
    return SAMPLES.view('<i2').astype(np.float32) / 32768


@pytest.mark.parametrize('kind', FORMS)
@pytest.mark.parametrize('second', ['continued', 'same format', 'behind a marker'])
def test_blocks_are_joined(read, kind, second):
    data, form = SAMPLES.tobytes(), FORMS[kind]
    parts = {
        'continued': [block(2, data[400:600]), block(2, data[600:])],
        'same format': [block(kind, form + data[400:])],
        'behind a marker': [block(4, b'\1\0'), block(2, data[400:])],
    }[second]
    joined = read(voc(block(kind, form + data[:400]), *parts))
    np.testing.assert_array_equal(joined, samples_of(kind))


def test_a_single_block_is_read_as_before(read):
    content = voc(block(9, FORMS[9] + SAMPLES.tobytes()))
    np.testing.assert_array_equal(read(content), samples_of(9))


def test_the_short_length_that_sox_notes_is_no_second_block(read):
    content = bytearray(voc(block(9, FORMS[9] + SAMPLES.tobytes())))
    content[27:30] = (len(FORMS[9]) + len(SAMPLES) - 8).to_bytes(3, 'little')
    np.testing.assert_array_equal(read(bytes(content)), samples_of(9))


@pytest.mark.parametrize(
    'content, message',
    [
        (voc(block(1, FORMS[1] + bytes(100)), block(9, FORMS[9] + bytes(100))), 'several formats'),
        (voc(block(9, FORMS[9] + bytes(100)), block(2, bytes(100)))[:-50], 'truncated'),
        (voc(block(9, FORMS[9] + bytes(100)), *[block(2, bytes(2))] * 10_001), '10000 blocks'),
    ],
)
def test_other_blocks_are_refused(read, content, message):
    with pytest.raises(reading.AudioError, match=message):
        read(content)

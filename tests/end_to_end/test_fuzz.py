"""Predict damaged recordings.

Each gets a result or an error with its name. None crashes, hangs or fills the memory.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

FILES, SECONDS = 500, 120
FORMATS = [
    ('WAV', 'PCM_16'),
    ('WAV', 'FLOAT'),
    ('WAV', 'IMA_ADPCM'),
    ('FLAC', 'PCM_16'),
    ('OGG', 'VORBIS'),
    ('OGG', 'OPUS'),
    ('MP3', 'MPEG_LAYER_III'),
    ('AIFF', 'PCM_16'),
    ('AU', 'ULAW'),
    ('CAF', 'PCM_24'),
    ('W64', 'PCM_16'),
    ('RF64', 'PCM_16'),
]
# Numbers that headers are damaged with: none, few, the largest and smallest of 8, 16 and 32 bits,
# in both orders of bytes.
NUMBERS = [
    bytes(4),
    b'\1\0\0\0',
    b'\0\0\0\1',
    b'\xff' * 4,
    b'\xff\xff\xff\x7f',
    b'\x7f\xff\xff\xff',
    b'\0\0\0\x80',
    b'\0\4\0\4',
    b'\xff',
    b'\0',
    b'\x7f',
    b'\xff\xff',
    b'\0\x80',
]
PREDICT = """
import json, resource, sys
import elastic_ast_jax
model = elastic_ast_jax.load(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for result in model.stream(sys.argv[2:], top_k=1):
    print(json.dumps(result), flush=True)
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024), flush=True)
"""
READ = """
import sys
from elastic_ast_jax.audio import reading
for path in sys.argv[1:]:
    print(path, flush=True)
    try:
        reading.read(path, 8000)
    except reading.AudioError:
        pass
"""


def damaged(content: bytes, number: int) -> bytes:
    """Return the recording with the damage of this number.

    Bits are flipped, the end is missing, a number of the header is changed, or bytes are lost.
    """
    random = iter(np.random.Philox(key=number).random_raw(64).tolist())
    data = bytearray(content)
    kind = number // len(FORMATS) % 5
    if kind == 0:  # anywhere
        for _ in range(1 + next(random) % 16):
            data[next(random) % len(data)] ^= 1 << next(random) % 8
    elif kind == 1:  # in the header
        for _ in range(1 + next(random) % 4):
            data[next(random) % min(256, len(data))] ^= 1 << next(random) % 8
    elif kind == 2:
        del data[next(random) % len(data) :]
    elif kind == 3:
        value, at = NUMBERS[next(random) % len(NUMBERS)], next(random) % min(128, len(data) - 4)
        data[at : at + len(value)] = value
    else:
        begin = next(random) % len(data)
        del data[begin : begin + 1 + next(random) % 500]
    return bytes(data)


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp('damaged')
    n = np.arange(6400)
    samples = np.stack(
        [0.4 * np.sin(n / 7), 0.3 * np.sin(n / 5) + 0.1 * np.sin(n * n / 9e3)], axis=1
    )
    originals = []
    for i, (container, subtype) in enumerate(FORMATS):
        path = folder / f'original{i}'
        soundfile.write(path, samples[:, : 1 + i % 2], 16000, format=container, subtype=subtype)
        originals.append(path.read_bytes())
    paths = []
    for number in range(FILES):
        which = number % len(FORMATS)
        path = folder / f'{number:03d}.{FORMATS[which][0].lower()}'
        path.write_bytes(damaged(originals[which], number))
        paths.append(str(path))
    return paths


def run(code: str, arguments: list[str], environment) -> tuple[str, str | None]:
    """What a process printed, and how it went wrong if it did."""
    try:
        result = subprocess.run(
            [sys.executable, '-c', code, *arguments],
            env=environment,
            timeout=SECONDS,
            capture_output=True,
            encoding='utf-8',
            errors='replace',
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b'').decode(errors='replace'), f'took more than {SECONDS} s'
    return (
        result.stdout,
        f'ended with code {result.returncode}: {result.stderr[-1000:]}'
        if result.returncode
        else None,
    )


def test_every_damaged_recording_gets_a_result_or_an_error_with_its_name(
    files, trained, environment
):
    printed, wrong = run(PREDICT, [str(trained), *files], environment)
    if wrong:
        reading, alone = run(READ, files, environment)
        pytest.fail(
            f'prediction {wrong}\n'
            + (f'in {reading.splitlines()[-1]}' if alone else 'in no file alone')
        )
    *results, grown = map(json.loads, printed.splitlines())
    assert [result['path'] for result in results] == files
    for result in results:
        if 'error' in result:
            assert result['error'].startswith(f'{result["path"]}: ') and len(result['error']) < 500
        else:
            assert 0 < result['seconds'] < 10
            assert np.isfinite(result['predictions'][0]['probability'])
    errors = sum('error' in result for result in results)
    assert FILES // 4 < errors < FILES * 9 // 10  # both happen, or the damage is none
    assert grown < 1024  # MiB, of which the model's compilation takes most

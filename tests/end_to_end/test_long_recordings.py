"""Recordings longer than the model's positions: windows, timelines, and bounded memory."""

import itertools
import json
import os
import sys

import numpy as np
import pytest
import soundfile

import elastic_ast_jax
from elastic_ast_jax.audio import fbank, reading
from elastic_ast_jax.audio.windows import WindowError
from elastic_ast_jax.utils import progress

RATE, CLASSES = 8000, 3
# Samples of 100 frames of 10 ms, and of 101 less one.
LENGTH, WHOLE = 200 + 99 * 80, 200 + 100 * 80 - 1
CLOSE = 1e-5


def tone(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    samples = round(seconds * rate)
    noise = 0.02 * (rate / RATE) ** 0.5 * np.random.default_rng(0).standard_normal(samples)
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate) + noise).astype(np.float32)


def registers(seconds: float, rate: int = RATE) -> np.ndarray:
    """Return a low, a middle and a high tone of so many seconds each."""
    return np.concatenate([tone(hertz, seconds, rate) for hertz in (300, 900, 2700)])


def by_label(result: dict) -> dict[str, float]:
    return {entry['label']: entry['probability'] for entry in result['predictions']}


@pytest.fixture(scope='module')
def model(trained):
    return elastic_ast_jax.load(trained)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def pieces_of(sound: np.ndarray, starts: list[int], length: int) -> list[np.ndarray]:
    return [sound[start : start + length] for start in starts]


def logits_of(model, pieces: list[np.ndarray]) -> np.ndarray:
    frontend = model.config.frontend
    return model.logits(
        [fbank.normalize(fbank.log_mel(piece, frontend), frontend).T for piece in pieces]
    )


@pytest.mark.parametrize(
    'samples, window, overlap, length, starts',
    [
        (3 * LENGTH, None, 0.0, LENGTH, [0, LENGTH, 2 * LENGTH]),
        (3 * LENGTH, None, None, LENGTH, [0, 4060, 8120, 12180, 16240]),  # data.overlap is a half
        (20_000, None, 0.25, LENGTH, [0, 6090, 20_000 - LENGTH]),  # the last window is moved back
        (WHOLE + 1, None, 0.0, LENGTH, [0, WHOLE + 1 - LENGTH]),
        (WHOLE, None, 0.0, WHOLE, [0]),
        (6000, 0.5, 0.5, 4000, [0, 2000]),
        (4001, 0.5, 0.0, 4000, [0, 1]),
        (4000, 0.5, 0.0, 4000, [0]),
        (30, 0.5, 0.0, 30, [0]),
    ],
)
def test_a_recording_is_the_mean_of_its_windows(samples, window, overlap, length, starts, model):
    ramp = np.linspace(0, 0.3, samples, dtype=np.float32)  # windows have different means
    sound = registers(1.2)[:samples] + ramp
    logits = logits_of(model, pieces_of(sound, starts, length))
    (result,) = model.predict([sound], top_k=CLASSES, window=window, overlap=overlap)
    assert result.get('windows', 1) == len(starts)
    assert ('windows' in result) == (len(starts) > 1)
    assert result['seconds'] == samples / RATE
    expected = dict(zip(model.labels, softmax(logits.mean(axis=0)), strict=True))
    assert by_label(result) == pytest.approx(expected, abs=CLOSE)

    (timeline,) = model.timeline([sound], top_k=CLASSES, window=window, overlap=overlap)
    assert {key: timeline[key] for key in result} == result
    assert timeline['labels'] == list(model.labels)
    assert timeline['overlap'] == (0.5 if overlap is None else overlap)
    assert timeline['window'] == (LENGTH / RATE if window is None else window)
    assert [entry['start'] for entry in timeline['timeline']] == [start / RATE for start in starts]
    assert [entry['end'] for entry in timeline['timeline']] == [
        (start + length) / RATE for start in starts
    ]
    for entry, row in zip(timeline['timeline'], logits, strict=True):
        np.testing.assert_allclose(entry['probabilities'], softmax(row), atol=CLOSE)


def test_files_of_any_format_are_split_like_their_waveforms(model, tmp_path):
    stereo = np.stack([registers(2.0, 22050), 0.5 * registers(2.0, 22050)], axis=1)
    soundfile.write(tmp_path / 'cd.flac', stereo, 22050)
    soundfile.write(tmp_path / 'phone.wav', registers(2.0), RATE, subtype='FLOAT')
    for name in ('cd.flac', 'phone.wav'):
        waveform = reading.read(tmp_path / name, RATE)
        for window in (None, 0.1):
            (of_file,) = model.timeline([tmp_path / name], CLASSES, window)
            (of_array,) = model.timeline([waveform], CLASSES, window)
            assert of_file['windows'] == of_array['windows']
            assert of_file['seconds'] == of_array['seconds'] == 6.0
            assert by_label(of_file) == pytest.approx(by_label(of_array), abs=1e-4)
            for entry, expected in zip(of_file['timeline'], of_array['timeline'], strict=True):
                assert (entry['start'], entry['end']) == (expected['start'], expected['end'])
                np.testing.assert_allclose(
                    entry['probabilities'], expected['probabilities'], atol=1e-3
                )


def test_a_long_recording_does_not_depend_on_other_inputs(model, recordings):
    """Predict several chunks of 64 clips, whose borders fall into recordings."""
    long = [registers(seconds) for seconds in (5.0, 30.0, 1.0, 0.5)]
    alone = [model.predict([sound], CLASSES)[0] for sound in long]
    files = recordings.test_files
    mixed = [files[0], long[0], *files[1:8], long[1], long[2], files[8], long[3]]
    results = model.predict(mixed, CLASSES)
    positions = {1: 0, 9: 1, 10: 2, 12: 3}
    for position, number in positions.items():
        assert results[position]['path'] == f'array {position}'
        assert results[position].get('windows') == alone[number].get('windows')
        assert by_label(results[position]) == pytest.approx(by_label(alone[number]), abs=CLOSE)
    assert sum(result.get('windows', 1) for result in results) > 3 * 64
    assert [results[i]['path'] for i in range(len(mixed)) if i not in positions] == files[:9]
    alone_files = model.predict(files[:9], CLASSES)
    for result, expected in zip(
        (results[i] for i in range(len(mixed)) if i not in positions), alone_files, strict=True
    ):
        assert by_label(result) == pytest.approx(by_label(expected), abs=CLOSE)


def test_the_timeline_has_the_classes_at_their_times(trained, command, tmp_path):
    (tmp_path / 'a').mkdir()
    soundfile.write(tmp_path / 'a' / 'sound.wav', registers(4.0), RATE)
    soundfile.write(tmp_path / 'sound.flac', tone(900, 0.8), RATE)
    out = tmp_path / 'timelines' / 'new'
    inputs = [tmp_path / 'a' / 'sound.wav', tmp_path / 'missing.wav', tmp_path / 'sound.flac']
    result = command(
        'predict', trained, *inputs, '--json', '--top_k=2', f'--timeline={out}', '--overlap=0.75'
    )
    assert (result.code, result.err) == (1, '')
    long, missing, short = map(json.loads, result.out.splitlines())
    assert sorted(os.listdir(out)) == ['sound-2.json', 'sound-2.png', 'sound.json', 'sound.png']
    assert list(long) == ['path', 'seconds', 'predictions', 'windows', 'timeline']
    assert list(missing) == ['path', 'error']
    assert (long['timeline'], short['timeline']) == (
        str(out / 'sound.json'),
        str(out / 'sound-2.json'),
    )

    timeline = json.loads((out / 'sound.json').read_text('utf-8'))
    assert {key: timeline[key] for key in ('path', 'seconds', 'predictions', 'windows')} == {
        key: long[key] for key in ('path', 'seconds', 'predictions', 'windows')
    }
    assert len(timeline['timeline']) == long['windows'] == 45
    assert (timeline['window'], timeline['overlap']) == (LENGTH / RATE, 0.75)
    assert timeline['timeline'][0]['start'] == 0 and timeline['timeline'][-1]['end'] == 12.0
    for register, label in enumerate(('low', 'middle', 'très haut')):
        column = timeline['labels'].index(label)
        for entry in timeline['timeline']:
            if 4 * register <= entry['start'] and entry['end'] <= 4 * register + 4:
                assert np.argmax(entry['probabilities']) == column, entry
    # A recording that fits in a window has one entry, with the recording's result.
    timeline = json.loads((out / 'sound-2.json').read_text('utf-8'))
    (entry,) = timeline['timeline']
    assert (entry['start'], entry['end']) == (0, 0.8)
    best = timeline['predictions'][0]
    assert entry['probabilities'][timeline['labels'].index(best['label'])] == pytest.approx(
        best['probability'], rel=1e-3
    )

    table = command(
        'predict', trained, *inputs, '--top_k=1', f'--timeline={out}', '--window=0.4', '--overlap=0'
    )
    assert f'{inputs[0]}  (12.00 s, 30 windows)\n' in table.out
    assert f'  timeline: {out / "sound.json"}\n' in table.out
    assert len(json.loads((out / 'sound-2.json').read_text('utf-8'))['timeline']) == 2


@pytest.mark.parametrize(
    'options, parts',
    [
        (
            ['--window=0.01'],
            ['a window of 0.01 s', '0.025 s (one frame) to 1.015 s (frontend.max_frames=100)'],
        ),
        (['--window=10'], ['a window of 10 s', 'to 1.015 s']),
        (['--overlap=0.9999'], ['an overlap of 0.9999', 'give at most 0.99']),
        (['--timeline={file}'], ['{file}: no folder for timelines']),
    ],
)
def test_invalid_options_are_errors(options, parts, trained, command, recordings, tmp_path):
    file = tmp_path / 'file'
    file.write_text('')
    result = command(
        'predict',
        trained,
        recordings.test_files[0],
        *(option.format(file=file) for option in options),
    )
    assert (result.code, result.out) == (1, '')
    assert result.err.count('\n') == 1
    for part in parts:
        assert part.format(file=file) in result.err


def test_invalid_windows_are_errors_before_an_input_is_read(model):
    def inputs():
        raise AssertionError('an input was read')
        yield

    for method in (model.predict, lambda *args, **more: list(model.timeline(*args, **more))):
        with pytest.raises(WindowError):
            method(inputs(), window=10.0)


def test_damage_in_the_middle_is_an_error_of_that_recording_alone(trained, command, tmp_path):
    good = tmp_path / 'good.wav'
    soundfile.write(good, registers(2.0), RATE)
    sound = registers(40.0)
    sound[700_000] = np.nan
    soundfile.write(tmp_path / 'hole.wav', sound, RATE, subtype='FLOAT')
    soundfile.write(tmp_path / 'damaged.flac', registers(40.0), RATE)
    content = bytearray((tmp_path / 'damaged.flac').read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = bytes(20_000)
    (tmp_path / 'damaged.flac').write_bytes(content)
    inputs = [good, tmp_path / 'hole.wav', good, tmp_path / 'damaged.flac', good]
    completed = command('predict', trained, *inputs, '--json', f'--timeline={tmp_path / "out"}')
    assert completed.code == 1
    results = list(map(json.loads, completed.out.splitlines()))
    assert [result['path'] for result in results] == list(map(str, inputs))
    assert by_label(results[2]) == pytest.approx(by_label(results[0]), abs=CLOSE)
    assert [list(results[i]) for i in (1, 3)] == [['path', 'error']] * 2
    assert 'sample 700000' in results[1]['error'] and 'repair the recording' in results[1]['error']
    assert str(inputs[3]) in results[3]['error']
    assert by_label(results[4]) == pytest.approx(by_label(results[0]), abs=CLOSE)
    assert {name.partition('.')[0] for name in os.listdir(tmp_path / 'out')} == {
        'good',
        'good-2',
        'good-3',
    }


def test_an_error_names_the_part_of_an_array(model):
    sound = registers(3.0)
    sound[50_000] = np.inf
    bad, good = model.predict([sound, registers(0.3)])
    start = 48_720 - LENGTH  # of the first window that holds it
    assert bad['path'] == 'array 0' and bad['error'].startswith('array 0[')
    first, last = map(int, bad['error'].partition('[')[2].partition(']')[0].split(':'))
    assert first <= 50_000 < last and last - first == LENGTH and first >= start
    assert f'sample {50_000 - first} ' in bad['error']
    assert 'predictions' in good


def test_results_are_yielded_before_all_inputs_are_read(model):
    reads = itertools.count()
    stream = model.stream(tone(900, 0.3) for _ in reads)
    for _ in range(3):
        next(stream)
    stream.close()
    assert next(reads) <= 3 * 64


@pytest.mark.slow
def test_progress_appears_during_long_work(trained, command, tmp_path, monkeypatch):
    soundfile.write(tmp_path / 'long.wav', tone(900, 90.0), RATE)
    arguments = ('predict', trained, tmp_path / 'long.wav', '--json', '--overlap=0.9')
    monkeypatch.setattr(progress, '_PATIENCE', 0.0)
    result = command(*arguments)
    line = result.err.splitlines()[0]
    assert line.startswith('0:') and ' of 1:30, ' in line
    assert line.endswith(f' left: {tmp_path / "long.wav"}') and 'times real time' in line
    json.loads(result.out)
    result = command(*arguments, f'--explain={tmp_path / "out.png"}')
    assert sum(' of 1:30, ' in line for line in result.err.splitlines()) == 2  # the second pass too


def test_progress_grows_to_the_end(model):
    calls = []
    list(
        model.stream([tone(900, 60.0), tone(300, 0.5)], progress=lambda *state: calls.append(state))
    )
    first = [result for name, result, seconds in calls if (name, seconds) == ('array 0', 60.0)]
    assert len(first) > 5 and first == sorted(first) and first[-1] > 50
    assert calls[-1] == ('array 1', 0.5, 0.5)


# Prints the growth of the largest amount of memory by a recording, in MiB. A short recording comes
# first, so that imports and compilation do not count.
MEMORY = """
import os, sys
import elastic_ast_jax
from elastic_ast_jax.inference.timeline import TimelineFolder

def status(key):
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))

workdir, out, *paths = sys.argv[1:]
model, folder = elastic_ast_jax.load(workdir), TimelineFolder(out)
loaded = status('VmRSS')
for number, path in enumerate(paths):
    before = status('VmRSS')
    (timeline,) = model.timeline([path])
    folder.write(timeline)
    print(timeline['windows'], status('VmHWM') - before, status('VmHWM') - loaded)
"""


def write_long(path, seconds: int, rate: int, channels: int) -> None:
    """Write a recording, one second at a time."""
    second = np.stack([tone(900, 1.0, rate)] * channels, axis=1)
    with soundfile.SoundFile(path, 'w', rate, channels) as file:
        for _ in range(seconds):
            file.write(second)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='memory is read from /proc')
def test_memory_does_not_grow_with_the_recording(trained, python, tmp_path):
    write_long(tmp_path / 'short.flac', 100, 48_000, 2)
    write_long(tmp_path / 'long.flac', 600, 48_000, 2)  # 220 MiB as float32
    result = python(
        MEMORY, trained, tmp_path / 'out', tmp_path / 'short.flac', tmp_path / 'long.flac'
    )
    assert result.code == 0, result.err
    (_, _, _), (windows, growth, total) = (
        map(float, line.split()) for line in result.out.splitlines()
    )
    assert windows == 1182
    assert growth < 80 and total < 500


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='memory is read from /proc')
def test_an_hour_takes_the_memory_of_a_minute(trained, python, tmp_path):
    write_long(tmp_path / 'short.flac', 100, 48_000, 2)
    write_long(tmp_path / 'hour.flac', 3600, 48_000, 2)
    write_long(tmp_path / 'hour.wav', 3600, 16_000, 1)
    result = python(
        MEMORY,
        trained,
        tmp_path / 'out',
        *(tmp_path / name for name in ('short.flac', 'hour.flac', 'hour.wav')),
    )
    assert result.code == 0, result.err
    print(result.out)
    for line in result.out.splitlines()[1:]:
        windows, growth, total = map(float, line.split())
        assert windows == 7093
        assert growth < 120 and total < 500
    assert sorted(os.listdir(tmp_path / 'out'))[:2] == ['hour-2.json', 'hour-2.png']

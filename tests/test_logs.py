"""What a run tells: metrics as lines and as TensorBoard events, and a line on the terminal."""

import contextlib
import json
import os
import termios

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from elastic_ast_jax.logs import (
    LogError,
    MetricsLog,
    Progress,
    Waiting,
    afterwards,
    counted,
    duration,
    in_seconds,
    printable,
)


def log(tmp_path, first, *entries):
    """A run that starts after `first` steps and logs a loss at each of the entries."""
    opened = MetricsLog(tmp_path / 'metrics.jsonl', tmp_path / 'tensorboard', first)
    for step, loss in entries:
        opened.write(step, 'train', {'loss': loss})
    opened.close()


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]


def events(tmp_path, tag):
    """Step and value of each scalar, as TensorBoard reads them."""
    accumulator = EventAccumulator(str(tmp_path / 'tensorboard'))
    accumulator.Reload()
    # The writer stores scalars as tensors of no dimension.
    return [(event.step, event.tensor_proto.float_val[0]) for event in accumulator.Tensors(tag)]


def test_a_line_holds_step_kind_and_values(tmp_path):
    opened = MetricsLog(tmp_path / 'metrics.jsonl', tmp_path / 'tensorboard', 0)
    opened.write(10, 'train', {'loss': 1.5, 'epoch': 1})
    assert lines(tmp_path) == [
        {'step': 10, 'kind': 'train', 'loss': 1.5, 'epoch': 1}
    ]  # at once, not at the end
    opened.write(20, 'eval', {'accuracy': 0.25})
    opened.close()
    assert lines(tmp_path)[1] == {'step': 20, 'kind': 'eval', 'accuracy': 0.25}


def test_tensorboard_holds_the_same(tmp_path):
    opened = MetricsLog(tmp_path / 'metrics.jsonl', tmp_path / 'tensorboard', 0)
    opened.write(10, 'train', {'loss': 1.5, 'rate': 0.25})
    opened.write(20, 'train', {'loss': 0.5, 'rate': 0.125})
    opened.write(20, 'eval', {'accuracy': 0.75})
    opened.close()
    assert list((tmp_path / 'tensorboard').glob('events.out.tfevents.*'))
    assert events(tmp_path, 'train/loss') == [(10, 1.5), (20, 0.5)]
    assert events(tmp_path, 'train/rate') == [(10, 0.25), (20, 0.125)]
    assert events(tmp_path, 'eval/accuracy') == [(20, 0.75)]


def test_a_run_that_goes_on_adds_lines(tmp_path):
    log(tmp_path, 0, (10, 1.0), (20, 2.0))
    log(tmp_path, 20, (30, 3.0))
    assert [(line['step'], line['loss']) for line in lines(tmp_path)] == [
        (10, 1.0),
        (20, 2.0),
        (30, 3.0),
    ]
    assert events(tmp_path, 'train/loss') == [(10, 1.0), (20, 2.0), (30, 3.0)]


def test_replayed_steps_replace_their_lines(tmp_path):
    log(tmp_path, 0, (10, 1.0), (15, 1.5), (20, 2.0), (30, 3.0))
    log(tmp_path, 15, (20, 2.5))  # the checkpoint was of step 15
    assert [(line['step'], line['loss']) for line in lines(tmp_path)] == [
        (10, 1.0),
        (15, 1.5),
        (20, 2.5),
    ]


def test_a_run_from_the_start_starts_a_new_log(tmp_path):
    log(tmp_path, 0, (10, 1.0))
    log(tmp_path, 0, (10, 4.0))
    assert [line['loss'] for line in lines(tmp_path)] == [4.0]


def test_a_last_line_that_a_crash_cut_off_is_dropped(tmp_path):
    log(tmp_path, 0, (10, 1.0), (20, 2.0))
    file = tmp_path / 'metrics.jsonl'
    file.write_text(file.read_text()[:-9])
    log(tmp_path, 20, (30, 3.0))
    assert [line['step'] for line in lines(tmp_path)] == [10, 30]


def test_opening_leaves_no_other_file(tmp_path):
    log(tmp_path, 0, (10, 1.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['metrics.jsonl', 'tensorboard']


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_every_line_is_json_whatever_the_values(tmp_path, value):
    """An AUC of 1 has an infinite d', and no class at all has none;

    other readers of JSON know neither NaN nor Infinity.
    """
    log(tmp_path, 0, (10, value))
    json.loads(
        (tmp_path / 'metrics.jsonl').read_text(),
        parse_constant=lambda name: pytest.fail(f'{name} is no JSON'),
    )


def test_profiles_beside_the_events_stay(tmp_path):
    profile = tmp_path / 'tensorboard' / 'plugins' / 'profile' / 'now' / 'host.xplane.pb'
    profile.parent.mkdir(parents=True)
    profile.write_bytes(b'steps')
    log(tmp_path, 0, (10, 1.0))
    log(tmp_path, 0, (10, 2.0))
    assert profile.read_bytes() == b'steps'
    assert events(tmp_path, 'train/loss') == [(10, 2.0)]  # of the second run alone


@pytest.fixture
def full(tmp_path):
    """A log whose file lies on a device that is always full."""
    if not os.path.exists('/dev/full'):
        pytest.skip('no /dev/full here')
    (tmp_path / 'metrics.jsonl.new').symlink_to(
        '/dev/full'
    )  # takes the place of the log, as the log's new version does
    return MetricsLog(tmp_path / 'metrics.jsonl', tmp_path / 'tensorboard', 0)


def test_a_full_disk_is_told_with_the_folder_and_the_step(full, tmp_path):
    with pytest.raises(LogError) as caught, contextlib.closing(full):
        full.write(10, 'train', {'loss': 1.0})
    assert f'{tmp_path}: the log cannot be written after step 10 (No space left on device)' in str(
        caught.value
    )


def test_a_folder_that_is_gone_is_told(tmp_path):
    with pytest.raises(LogError, match='the log cannot be written at the start'):
        MetricsLog(tmp_path / 'gone' / 'metrics.jsonl', tmp_path / 'gone' / 'tensorboard', 0)


# The line on the terminal


class Terminal:
    """A terminal: `stream` to write to, and what a person sees on it."""

    def __init__(self):
        self._screen, device = os.openpty()
        os.set_blocking(self._screen, False)
        self.stream = open(device, 'w', encoding='utf-8')

    def resize(self, columns):
        termios.tcsetwinsize(self._screen, (24, columns))

    def written(self):
        text = b''
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._screen, 1 << 16):
                text += part
        return text.decode()

    def lines(self):
        shown = []
        for line in self.written().split('\n'):
            cells = ''
            for part in line.split('\r'):  # a carriage return goes back to the start of the line
                cells = part + cells[len(part) :]
            shown.append(cells.rstrip())
        return shown

    def close(self):
        self.stream.close()
        os.close(self._screen)


@pytest.fixture
def terminal():
    with contextlib.closing(Terminal()) as made:
        yield made


@pytest.fixture
def clock(monkeypatch):
    """Seconds, in a list of one: they pass when a test says so."""
    now = [1000.0]
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    return now


def test_a_terminal_shows_the_latest_state_on_one_line(terminal, clock):
    progress = Progress(terminal.stream)
    for text in ('step 9, a long line', 'step 10'):
        progress.show(text)
        clock[0] += 1
    assert terminal.lines() == ['step 10']
    progress.show('step 11')
    assert terminal.lines() == ['step 11']


def test_a_line_that_stays_takes_the_place_of_the_state(terminal, clock):
    progress = Progress(terminal.stream)
    progress.say('begin')
    progress.show('step 10 and much more')
    progress.say('epoch 1')
    clock[0] += 1
    progress.show('step 11')
    assert terminal.lines() == ['begin', 'epoch 1', 'step 11']


def test_a_terminal_is_not_flooded(terminal, clock):
    progress = Progress(terminal.stream)
    for step in range(1000):
        progress.show(f'step {step}')
        clock[0] += 0.001
    assert 5 <= terminal.written().count('\r') <= 11


def test_a_line_that_is_longer_than_the_terminal_is_wide_is_cut(terminal, clock):
    """One that goes on in the next row cannot be written over."""
    terminal.resize(40)
    progress = Progress(terminal.stream)
    for text in ('0:10 left: ' + 'x' * 100, '0:09 left: ' + '日本' * 50, '0:08 left'):
        progress.show(text)
        clock[0] += 1
    first, second, third = terminal.written().split('\r')[1:]
    assert first == '0:10 left: ' + 'x' * 28
    assert second == '0:09 left: ' + '日本' * 7  # two columns each
    assert third == '0:08 left'.ljust(39)


def test_a_terminal_that_does_not_know_its_width_shows_all(terminal):
    terminal.resize(0)
    Progress(terminal.stream).show('x' * 100 + '日本')
    assert terminal.lines() == ['x' * 100 + '日本']


def test_names_do_not_steer_the_terminal(terminal):
    progress = Progress(terminal.stream)
    progress.say('a\x1b[31m\nb\r')
    progress.show('c\nd\x07')
    assert terminal.lines() == ['a\\x1b[31m', 'b\\r', 'c\\nd\\x07']


def test_elsewhere_there_is_a_line_now_and_then(tmp_path, clock):
    with open(tmp_path / 'log', 'w', encoding='utf-8') as stream:
        progress = Progress(stream, every=10.0)
        for second in range(25):
            progress.show(f'step {second}')
            assert (tmp_path / 'log').read_text().count('\n') == 1 + second // 10  # at once
            clock[0] += 1
        progress.say('done')
    assert (tmp_path / 'log').read_text() == 'step 0\nstep 10\nstep 20\ndone\n'


@pytest.mark.parametrize(
    'seconds, text',
    [
        (0.0, '0:00'),
        (59.4, '0:59'),
        (59.6, '1:00'),
        (61.0, '1:01'),
        (3599.0, '59:59'),
        (3723.0, '1:02:03'),
        (360000.0, '100:00:00'),
        (-1.0, '0:00'),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    'text, shown',
    [
        ('été 日本 🎵 .wav', 'été 日本 🎵 .wav'),
        ('a\u3000b\xa0c', 'a\u3000b\xa0c'),
        ('a\nb\r\t', 'a\\nb\\r\\t'),
        ('\x1b[2J', '\\x1b[2J'),
        ('\x9b', '\\x9b'),
        ('caf\udce9', 'caf\\udce9'),
        ('a\u202eb\u2028c', 'a\\u202eb\\u2028c'),
        ('', ''),
    ],
)
def test_what_is_printed_of_a_name(text, shown):
    assert printable(text) == shown


def test_counts_and_seconds():
    assert [counted(number, 'clip') for number in (0, 1, 2)] == ['0 clips', '1 clip', '2 clips']
    assert [counted(number, 'class', 'classes') for number in (1, 2)] == ['1 class', '2 classes']
    assert [in_seconds(seconds) for seconds in (1 / 16000, 0.0099, 0.01, 0.7, 61.0)] == [
        '6.25e-05 s',
        '0.0099 s',
        '0.01 s',
        '0.70 s',
        '61.00 s',
    ]


# While recordings take long


@pytest.fixture
def waiting(terminal, clock, monkeypatch):
    monkeypatch.setattr('sys.stderr', terminal.stream)
    terminal.resize(100)
    with Waiting() as made:
        yield made


def test_a_long_recording_shows_how_far_it_is(waiting, terminal, clock):
    for done in (60.0, 160.0):
        waiting.show('long.wav', done, 3600.0)
        clock[0] += 1
    assert terminal.written() == ''  # not yet
    waiting.show('long.wav', 260.0, 3600.0)
    assert terminal.lines() == ['4:20 of 1:00:00, 100 times real time, 0:33 left: long.wav']
    waiting.clear()
    assert terminal.lines() == ['']


def test_many_short_recordings_show_how_many_are_done(waiting, terminal, clock):
    for _ in range(64):
        waiting.done()
        clock[0] += 0.03
    waiting.show('64.wav', 1.0, 1.0)
    assert terminal.lines() == ['']
    clock[0] += 0.1
    waiting.show('65.wav', 1.0, 1.0)
    assert terminal.lines() == ['64 recordings done']


def test_one_recording_that_takes_the_time_of_loading_shows_nothing(waiting, terminal, clock):
    clock[0] += 10
    waiting.show('a.wav', 1.0, 1.0)
    waiting.done()
    assert terminal.written() == ''


# The end


def test_what_is_done_afterwards_does_not_hide_why_it_ended(caplog):
    def fails():
        raise OSError('full')

    with pytest.raises(KeyError), afterwards(fails):
        raise KeyError('first')
    assert [record.getMessage() for record in caplog.records] == ['full']
    with pytest.raises(OSError, match='full'), afterwards(fails):
        pass
    done = []
    with afterwards(lambda: done.append(1)):
        pass
    assert done == [1]

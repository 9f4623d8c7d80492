"""Show progress on a terminal or in a log, and run work at the end of a block."""

import contextlib
import os
import termios

import pytest

from elastic_ast_jax.utils.progress import Progress, RecordingProgress, run_on_exit

# The line on the terminal


class Terminal:
    """Emulate a terminal: `stream` receives text, `lines` returns the visible lines."""

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
        visible = []
        for line in self.written().split('\n'):
            cells = ''
            for part in line.split('\r'):  # a carriage return goes back to the start of the line
                cells = part + cells[len(part) :]
            visible.append(cells.rstrip())
        return visible

    def close(self):
        self.stream.close()
        os.close(self._screen)


@pytest.fixture
def terminal():
    with contextlib.closing(Terminal()) as opened:
        yield opened


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by a list with the current second, which tests change."""
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


def test_a_permanent_line_replaces_the_status(terminal, clock):
    progress = Progress(terminal.stream)
    progress.write_line('begin')
    progress.show('step 10 and much more')
    progress.write_line('epoch 1')
    clock[0] += 1
    progress.show('step 11')
    assert terminal.lines() == ['begin', 'epoch 1', 'step 11']


def test_updates_of_a_terminal_are_limited(terminal, clock):
    progress = Progress(terminal.stream)
    for step in range(1000):
        progress.show(f'step {step}')
        clock[0] += 0.001
    assert 5 <= terminal.written().count('\r') <= 11


def test_a_line_longer_than_the_terminal_is_trimmed(terminal, clock):
    """A line that continues in the next row could not be replaced."""
    terminal.resize(40)
    progress = Progress(terminal.stream)
    for text in ('0:10 left: ' + 'x' * 100, '0:09 left: ' + '日本' * 50, '0:08 left'):
        progress.show(text)
        clock[0] += 1
    first, second, third = terminal.written().split('\r')[1:]
    assert first == '0:10 left: ' + 'x' * 28
    assert second == '0:09 left: ' + '日本' * 7  # two columns each
    assert third == '0:08 left'.ljust(39)


def test_a_terminal_without_a_width_shows_the_whole_line(terminal):
    terminal.resize(0)
    Progress(terminal.stream).show('x' * 100 + '日本')
    assert terminal.lines() == ['x' * 100 + '日本']


def test_control_characters_of_names_are_escaped(terminal):
    progress = Progress(terminal.stream)
    progress.write_line('a\x1b[31m\nb\r')
    progress.show('c\nd\x07')
    assert terminal.lines() == ['a\\x1b[31m', 'b\\r', 'c\\nd\\x07']


def test_a_log_gets_a_line_now_and_then(tmp_path, clock):
    with open(tmp_path / 'log', 'w', encoding='utf-8') as stream:
        progress = Progress(stream, every=10.0)
        for second in range(25):
            progress.show(f'step {second}')
            assert (tmp_path / 'log').read_text().count('\n') == 1 + second // 10  # at once
            clock[0] += 1
        progress.write_line('done')
    assert (tmp_path / 'log').read_text() == 'step 0\nstep 10\nstep 20\ndone\n'


# Recordings


@pytest.fixture
def recordings(terminal, clock, monkeypatch):
    monkeypatch.setattr('sys.stderr', terminal.stream)
    terminal.resize(100)
    with RecordingProgress() as progress:
        yield progress


def test_a_long_recording_shows_its_progress(recordings, terminal, clock):
    for result in (60.0, 160.0):
        recordings.show('long.wav', result, 3600.0)
        clock[0] += 1
    assert terminal.written() == ''  # too early
    recordings.show('long.wav', 260.0, 3600.0)
    assert terminal.lines() == ['4:20 of 1:00:00, 100 times real time, 0:33 left: long.wav']
    recordings.clear()
    assert terminal.lines() == ['']


def test_many_short_recordings_show_their_count(recordings, terminal, clock):
    for _ in range(64):
        recordings.finish_recording()
        clock[0] += 0.03
    recordings.show('64.wav', 1.0, 1.0)
    assert terminal.lines() == ['']
    clock[0] += 0.1
    recordings.show('65.wav', 1.0, 1.0)
    assert terminal.lines() == ['64 recordings done']


def test_the_time_of_loading_shows_nothing(recordings, terminal, clock):
    clock[0] += 10
    recordings.show('a.wav', 1.0, 1.0)
    recordings.finish_recording()
    assert terminal.written() == ''


# Work on exit


def test_work_on_exit_does_not_hide_the_first_error(caplog):
    def fails():
        raise OSError('full')

    with pytest.raises(KeyError), run_on_exit(fails):
        raise KeyError('first')
    assert [record.getMessage() for record in caplog.records] == ['full']
    with pytest.raises(OSError, match='full'), run_on_exit(fails):
        pass
    calls = []
    with run_on_exit(lambda: calls.append(1)):
        pass
    assert calls == [1]

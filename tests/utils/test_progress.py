"""The line on the terminal, and work that is done however a block ends."""

import contextlib
import os
import termios

import pytest

from elastic_ast_jax.utils.progress import Progress, RecordingProgress, run_on_exit

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
    progress.write_line('begin')
    progress.show('step 10 and much more')
    progress.write_line('epoch 1')
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
    progress.write_line('a\x1b[31m\nb\r')
    progress.show('c\nd\x07')
    assert terminal.lines() == ['a\\x1b[31m', 'b\\r', 'c\\nd\\x07']


def test_elsewhere_there_is_a_line_now_and_then(tmp_path, clock):
    with open(tmp_path / 'log', 'w', encoding='utf-8') as stream:
        progress = Progress(stream, every=10.0)
        for second in range(25):
            progress.show(f'step {second}')
            assert (tmp_path / 'log').read_text().count('\n') == 1 + second // 10  # at once
            clock[0] += 1
        progress.write_line('done')
    assert (tmp_path / 'log').read_text() == 'step 0\nstep 10\nstep 20\ndone\n'


# While recordings take long


@pytest.fixture
def waiting(terminal, clock, monkeypatch):
    monkeypatch.setattr('sys.stderr', terminal.stream)
    terminal.resize(100)
    with RecordingProgress() as made:
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
        waiting.finish_recording()
        clock[0] += 0.03
    waiting.show('64.wav', 1.0, 1.0)
    assert terminal.lines() == ['']
    clock[0] += 0.1
    waiting.show('65.wav', 1.0, 1.0)
    assert terminal.lines() == ['64 recordings done']


def test_one_recording_that_takes_the_time_of_loading_shows_nothing(waiting, terminal, clock):
    clock[0] += 10
    waiting.show('a.wav', 1.0, 1.0)
    waiting.finish_recording()
    assert terminal.written() == ''


# The end


def test_what_is_done_afterwards_does_not_hide_why_it_ended(caplog):
    def fails():
        raise OSError('full')

    with pytest.raises(KeyError), run_on_exit(fails):
        raise KeyError('first')
    assert [record.getMessage() for record in caplog.records] == ['full']
    with pytest.raises(OSError, match='full'), run_on_exit(fails):
        pass
    done = []
    with run_on_exit(lambda: done.append(1)):
        pass
    assert done == [1]

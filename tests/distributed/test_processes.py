"""Test the environment of several processes, and how a process notices that it must stop.

Runs of several processes are in end_to_end/test_hosts.py.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from elastic_ast_jax.cli.main import COMMANDS, DISTRIBUTED
from elastic_ast_jax.distributed import early_failures, processes

THREE = {
    'JAX_COORDINATOR_ADDRESS': '127.0.0.1:1234',
    'JAX_NUM_PROCESSES': '2',
    'JAX_PROCESS_ID': '1',
}


@pytest.mark.parametrize(
    'environment',
    [{}, {'JAX_COORDINATOR_ADDRESS': '127.0.0.1:1234'}, {'ELASTIC_AST_DISTRIBUTED': ''}],
)
def test_process_runs_alone_by_default(environment):
    processes.initialize(environment)
    assert processes.is_single_process() and processes.is_primary()
    processes.wait_for_all('here')
    assert processes.all_gather({'a': [1, 'ä']}) == [{'a': [1, 'ä']}]


@pytest.mark.parametrize(
    'environment, parts',
    [
        (
            {'JAX_NUM_PROCESSES': '2'},
            [
                'JAX_NUM_PROCESSES without JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID',
                'ELASTIC_AST_DISTRIBUTED',
            ],
        ),
        (THREE | {'JAX_PROCESS_ID': '2'}, ['JAX_PROCESS_ID=2', 'below JAX_NUM_PROCESSES=2']),
        (THREE | {'JAX_NUM_PROCESSES': 'two'}, ["JAX_NUM_PROCESSES='two'", 'whole number']),
        ({'ELASTIC_AST_DISTRIBUTED': 'yes'}, ["ELASTIC_AST_DISTRIBUTED='yes'", "'auto'"]),
    ],
)
def test_wrong_variables_are_named(environment, parts):
    with pytest.raises(processes.ProcessesError) as caught:
        processes.initialize(environment)
    for text in parts:
        assert text in str(caught.value)


def test_signal_is_noticed_and_its_handler_restored():
    previous = signal.getsignal(signal.SIGTERM)
    with processes.Preemption() as preemption:
        assert not preemption.should_stop(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.should_stop(2) and preemption.should_stop(3)
    assert signal.getsignal(signal.SIGTERM) == previous


def test_preemption_has_its_own_exit_code():
    assert processes.Preempted('x').exit_code == 75 and processes.ProcessesError('x').exit_code == 1


TWO = """
import sys, time
from elastic_ast_jax.cli.main import COMMANDS, DISTRIBUTED
from elastic_ast_jax.distributed import early_failures, processes
from elastic_ast_jax.utils.errors import UserError

def fail():
    raise UserError('no such file')

def slow():
    time.sleep(1)
    return 'slow'

processes.initialize()
number = processes.process_index()
try:
    with processes.fail_together():
        assert processes.all_gather([number, 'x' * number]) == [[0, ''], [1, 'x']]
        assert processes.primary_first('work', slow) == 'slow'
        processes.wait_for_all('before')
    for place in ('here', 'in the first process'):
        try:
            with processes.fail_together():
                if place == 'here':
                    processes.all_gather(number) if number == 0 else fail()
                else:
                    processes.primary_first('work', fail if number == 0 else slow)
        except UserError as error:
            print(error)
    processes.wait_for_all(f'the place {number}')
except UserError as error:
    print(error)
"""


def start_two(first, second):
    """Start two processes of one run with these arguments of Python."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    root = pathlib.Path(__file__).parents[2]
    started = []
    for number, arguments in enumerate((first, second)):
        variables = {
            'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
            'JAX_NUM_PROCESSES': '2',
            'JAX_PROCESS_ID': str(number),
            'JAX_PLATFORMS': 'cpu',
            'PYTHONPATH': str(root),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, *arguments],
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding='utf-8',
            )
        )
    return started


def test_an_error_of_one_of_two_processes_ends_both():
    began = time.monotonic()
    started = start_two(['-c', TWO], ['-c', TWO])
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    places = 'the processes run different programs: process 0 at'
    messages = [[line for line in output if 'Gloo' not in line] for output in outputs]
    assert messages[0][:2] == ['process 1 failed, so all end: no such file', 'no such file']
    assert messages[1][:2] == ['no such file', 'process 0 failed, so all end: no such file']
    assert all(output[2].startswith(places) for output in messages)
    print(f'{time.monotonic() - began:.1f} s')


@pytest.mark.slow
@pytest.mark.parametrize('failing', [0, 1])
@pytest.mark.parametrize(
    ('mistake', 'code', 'reason'),
    [
        ('--config.model.depth=x', 1, "model.depth='x': must be a whole number"),
        ('--nonsense', 2, 'its command line is refused'),
    ],
)
def test_a_mistake_of_one_process_before_it_joins_ends_both(
    tmp_path, failing, mistake, code, reason
):
    words = ['-m', 'elastic_ast_jax', 'train', '--config=quickstart', f'--workdir={tmp_path / "w"}']
    began = time.monotonic()
    arguments = [[*words, mistake] if number == failing else words for number in range(2)]
    started = start_two(*arguments)
    outputs = [process.communicate(timeout=100)[1] for process in started]
    seconds = time.monotonic() - began
    assert [process.returncode for process in started] == [code, code], outputs
    assert f'process {failing} failed, so all end: ' in outputs[1 - failing]
    assert reason in outputs[1 - failing]
    assert 'so all end' not in outputs[failing] and 'Traceback' not in ''.join(outputs)
    assert not (tmp_path / 'w').exists()
    assert seconds < 60  # by far less than JAX's 300


def test_each_command_of_several_processes_announces_its_failures():
    root = pathlib.Path(processes.__file__).parents[1] / 'cli'
    connecting = {
        name
        for name in COMMANDS
        if 'processes.initialize()' in (root / f'{name}.py').read_text('utf-8')
    }
    assert connecting == DISTRIBUTED


@pytest.mark.parametrize(
    ('environment', 'code'),
    [
        ({}, 1),
        ({'JAX_NUM_PROCESSES': '2'}, 1),
        (THREE | {'JAX_NUM_PROCESSES': '1', 'JAX_PROCESS_ID': '0'}, 1),
        (THREE, 0),
        (THREE, 130),
    ],
)
def test_nobody_is_told_by_a_process_alone_or_one_that_was_interrupted(
    monkeypatch, environment, code
):
    monkeypatch.setattr(processes, 'join_as_failed', lambda *_: pytest.fail('joins'))
    early_failures.announce('no such file', code, environment)


def test_a_failure_is_announced_once_and_not_by_a_process_that_has_joined(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(processes, 'join_as_failed', lambda *words: calls.append(words))
    early_failures.announce('no such file', 1, THREE)
    assert calls == [(('127.0.0.1:1234', 2, 1), 'no such file', 1)]
    assert 'telling the other processes' in capsys.readouterr().err
    monkeypatch.setattr(processes, 'has_joined', lambda: True)
    early_failures.announce('no such file', 1, THREE)
    assert len(calls) == 1


ALONE = """
from elastic_ast_jax.distributed import early_failures, processes
processes._START_SECONDS = processes.FAILED_SECONDS = 2
if {failed}:
    early_failures.announce('no such file', 3)
else:
    processes.initialize()
print('goes on')
"""


@pytest.mark.parametrize('number', [0, 1])
@pytest.mark.parametrize('failed', [True, False])
def test_a_process_whose_others_never_start_ends_with_the_reason(number, failed):
    """JAX would abort it."""
    scripts = [ALONE.format(failed=failed) if i == number else '' for i in (0, 1)]
    started = start_two(*(['-c', script] for script in scripts))
    output, errors = started[number].communicate(timeout=60)
    started[1 - number].communicate(timeout=60)
    assert started[number].returncode == (3 if failed else 70) and not output
    assert ('telling' if failed else 'cannot be reached within 2 seconds: check') in errors
    assert 'stack trace' not in errors and 'Traceback' not in errors

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

from elastic_ast_jax.distributed import processes

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
from elastic_ast_jax.distributed import processes
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


def test_an_error_of_one_of_two_processes_ends_both():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    root = pathlib.Path(__file__).parents[2]
    began, started = time.monotonic(), []
    for number in range(2):
        variables = {
            'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
            'JAX_NUM_PROCESSES': '2',
            'JAX_PROCESS_ID': str(number),
            'JAX_PLATFORMS': 'cpu',
            'PYTHONPATH': str(root),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, '-c', TWO],
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                encoding='utf-8',
            )
        )
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    places = 'the processes run different programs: process 0 at'
    messages = [[line for line in output if 'Gloo' not in line] for output in outputs]
    assert messages[0][:2] == ['process 1 failed, so all end: no such file', 'no such file']
    assert messages[1][:2] == ['no such file', 'process 0 failed, so all end: no such file']
    assert all(output[2].startswith(places) for output in messages)
    print(f'{time.monotonic() - began:.1f} s')

"""Test the environment of several processes, and how a process notices that it must stop.

Runs of several processes are in end_to_end/test_hosts.py.
"""

import os
import signal

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

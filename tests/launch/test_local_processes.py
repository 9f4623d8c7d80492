"""Test local_processes.sh: environments, reports of failures, and that all processes end."""

import json
import os
import re
import shlex
import signal
import time

import pytest

from elastic_ast_jax.distributed.identity import Identity
from tests.fakes.machine import until

# Records its number, the number of its start and its process id, waits for the other processes of
# the start, and runs the code of the test.
WORKER = """
number = int(os.environ['JAX_PROCESS_ID'])
start = len(list(folder.glob(f'begun.{number}.*')))
(folder / f'begun.{number}.{start}').write_text(json.dumps([os.getpid(), dict(os.environ)]))
while len(list(folder.glob(f'begun.*.{start}'))) < int(os.environ['JAX_NUM_PROCESSES']):
    time.sleep(0.01)
import signal
"""


@pytest.fixture
def launch(machine):
    """Return a function that runs `worker`, whose code may use `number` and `start`."""

    def run_workers(code, *options, processes=3, arguments=()):
        machine.stand_in('worker', WORKER + code)
        return machine.run(
            'local_processes.sh',
            str(processes),
            f'--logs={machine.folder / "logs"}',
            *options,
            '--',
            'worker',
            *arguments,
        )

    return run_workers


def started(machine) -> dict[tuple[int, int], tuple[int, dict]]:
    """Return the process id and environment of each process, by its number and start."""
    files = {tuple(file.name.split('.')[1:]): file for file in machine.folder.glob('begun.*')}
    return {
        (int(number), int(start)): json.loads(file.read_text())
        for (number, start), file in files.items()
    }


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f'/proc/{pid}/stat') as file:
        return file.read().rpartition(')')[2].split()[0] != 'Z'


def all_ended(machine) -> bool:
    return not any(alive(pid) for pid, _ in started(machine).values())


def test_each_process_has_its_number_in_the_environment(machine, launch):
    words = ['--workdir=a b\'c"d', '$HOME `id` *', '']
    result = launch('print("from", number)', '--devices=4', arguments=words)
    assert (result.returncode, result.stderr) == (0, '')
    assert result.stdout == 'from 0\n'
    assert [(machine.folder / 'logs' / f'process{i}.log').read_text() for i in (1, 2)] == [
        'from 1\n',
        'from 2\n',
    ]
    assert machine.called('worker') == [words] * 3
    environments = [environment for _, environment in started(machine).values()]
    assert sorted(environment['JAX_PROCESS_ID'] for environment in environments) == ['0', '1', '2']
    assert {environment['JAX_NUM_PROCESSES'] for environment in environments} == {'3'}
    (address,) = {environment['JAX_COORDINATOR_ADDRESS'] for environment in environments}
    assert re.fullmatch(r'127\.0\.0\.1:[0-9]{5}', address)
    assert {environment['XLA_FLAGS'] for environment in environments} == {
        '--xla_force_host_platform_device_count=4'
    }
    assert {environment['JAX_PLATFORMS'] for environment in environments} == {'cpu'}
    assert {environment['ELASTIC_AST_START'] for environment in environments} == {'1'}


def test_the_dry_run_prints_the_commands(machine):
    machine.stand_in('worker')
    result = machine.run(
        'local_processes.sh',
        '2',
        '--devices',
        '8',
        '--dry_run',
        '--',
        'worker',
        'a b',
        XLA_FLAGS='--one',
    )
    assert result.returncode == 0 and not machine.called('worker')
    for number, line in enumerate(result.stdout.splitlines()):
        words = shlex.split(line)
        assert words[0] == 'env' and words[-2:] == ['worker', 'a b']
        assert f'JAX_PROCESS_ID={number}' in words and 'JAX_NUM_PROCESSES=2' in words
        assert 'XLA_FLAGS=--one --xla_force_host_platform_device_count=8' in words
    assert number == 1


def test_the_first_failure_is_named_and_all_start_again_at_another_port(machine, launch):
    result = launch("""
if start == 0 and number == 1:
    print('out of luck')
    sys.exit(7)
if start == 0:
    time.sleep(60)
""")
    assert result.returncode == 0
    assert 'process 1 was the first to end: exit code 7' in result.stderr
    assert '  | out of luck\n' in result.stderr and 'logs/process1.log' in result.stderr
    assert 'starting all 3 again, restart 1 of 3' in result.stderr
    processes = started(machine)
    assert processes.keys() == {(number, start) for number in range(3) for start in range(2)}
    ports = [
        {processes[number, start][1]['JAX_COORDINATOR_ADDRESS'] for number in range(3)}
        for start in range(2)
    ]
    assert len(ports[0]) == len(ports[1]) == 1 and ports[0] != ports[1]
    identities = [Identity.current(processes[0, start][1]) for start in range(2)]
    assert identities[0].is_restarted_by(identities[1])
    assert all_ended(machine)
    assert (machine.folder / 'logs' / 'process1.restart1.log').exists()


def test_a_killed_process_is_restarted_and_a_hanging_one_is_killed(machine, launch):
    began = time.monotonic()
    result = launch(
        """
if start == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if number == 2:
        time.sleep(0.5)  # the others ignore SIGTERM by now
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
""",
        '--grace=1',
    )
    assert result.returncode == 0
    assert 'process 2 was the first to end: killed by SIGKILL' in result.stderr
    assert 'killing 2 that did not end' in result.stderr
    assert time.monotonic() - began < 20 and all_ended(machine)


@pytest.mark.parametrize('code', [1, 2, 130])
def test_mistakes_and_interruptions_are_not_repeated(machine, launch, code):
    result = launch(f'sys.exit({code}) if number == 0 else time.sleep(60)')
    assert result.returncode == code
    assert 'process 0 was the first to end' in result.stderr and 'again' not in result.stderr
    assert {start for _, start in started(machine)} <= {0} and all_ended(machine)


@pytest.mark.parametrize('code', [3, 75])
def test_restarts_are_limited(machine, launch, code):
    result = launch(f'sys.exit({code}) if number == 1 else time.sleep(60)', '--restarts=2')
    assert result.returncode == code
    assert (
        'giving up after 2 restarts' in result.stderr
        and result.stderr.count('was the first to end') == 3
    )
    assert {start for number, start in started(machine) if number == 1} == {0, 1, 2} and all_ended(
        machine
    )


@pytest.mark.parametrize(('sent', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_are_forwarded_and_processes_may_save(machine, sent, code):
    machine.stand_in(
        'worker',
        WORKER
        + f"""
def end(*_):
    time.sleep(0.3)
    (folder / f'saved.{{number}}').touch()
    sys.exit({code})
signal.signal({int(sent)}, end)
(folder / f'ready.{{number}}').touch()
time.sleep(60)
""",
    )
    process = machine.start(
        'local_processes.sh', '2', f'--logs={machine.folder / "logs"}', '--', 'worker'
    )
    until(lambda: len(list(machine.folder.glob('ready.*'))) == 2)
    process.send_signal(sent)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output
    assert len(list(machine.folder.glob('saved.*'))) == 2
    assert 'again' not in output and all_ended(machine)


def test_a_second_signal_does_not_wait(machine):
    machine.stand_in(
        'worker',
        WORKER
        + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / f'ready.{number}').touch()
time.sleep(60)
""",
    )
    process = machine.start(
        'local_processes.sh', '2', f'--logs={machine.folder / "logs"}', '--', 'worker'
    )
    until(lambda: len(list(machine.folder.glob('ready.*'))) == 2)
    process.terminate()
    time.sleep(0.5)
    process.terminate()
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 137 and 'killing 2' in output and all_ended(machine)


def test_a_process_whose_shell_was_killed_too_is_noticed(machine, launch):
    result = launch(
        """
if number == 1:
    os.kill(os.getppid(), signal.SIGKILL)
time.sleep(60)
""",
        '--restarts=0',
    )
    assert result.returncode == 137
    assert 'process 1 was the first to end' in result.stderr and all_ended(machine)


def test_children_of_a_process_end_with_it(machine, launch):
    result = launch("""
child = subprocess.Popen(['sleep', '60'])
(folder / f'begun.{number}.9').write_text(json.dumps([child.pid, {}]))
""")
    assert result.returncode == 0
    until(lambda: all_ended(machine))

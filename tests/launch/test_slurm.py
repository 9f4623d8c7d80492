"""Test launch/slurm.sbatch with stand-ins for srun and scontrol."""

import os
import signal
import subprocess
import time

import pytest

from tests.fakes.machine import ROOT, until

# Like srun: it reads its own options, runs the command once for each task, and returns the highest
# exit code.
SRUN = """
options = [word for word in called if word.startswith('--')][:called.index('bash')]
command = called[called.index('bash'):]
output = next(word.partition('=')[2] for word in options if word.startswith('--output='))
tasks = []
for task in range(int(os.environ['TASKS'])):
    with open(output.replace('%t', str(task)), 'ab') as log:
        environment = os.environ | {'SLURM_PROCID': str(task), 'SLURM_LOCALID': str(task)}
        tasks.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
WORKER = """
task = int(os.environ['SLURM_PROCID'])
assert os.environ['ELASTIC_AST_DISTRIBUTED'] == 'auto'
"""


@pytest.fixture
def slurm(machine):
    """Return a function that runs a copy of the script in the folder of the sbatch call."""
    machine.stand_in('srun', SRUN)
    machine.stand_in('scontrol')
    spool = machine.folder / 'spool'
    spool.mkdir()
    (spool / 'slurm_script').write_bytes((ROOT / 'launch' / 'slurm.sbatch').read_bytes())
    machine.environment = {'PATH': str(machine.bin), 'SLURM_JOB_ID': '77', 'TASKS': '3'}

    def start(*arguments, code='', **environment):
        if code is not None:
            machine.stand_in('worker', WORKER + code)
        return subprocess.Popen(
            [machine.bin / 'bash', spool / 'slurm_script', *arguments],
            cwd=machine.root,
            text=True,
            stdin=subprocess.DEVNULL,
            env=machine.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(*arguments, **more):
        process = start(*arguments, **more)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    run.start = start
    return run


def test_help_and_dry_run_need_no_slurm(machine):
    shown = machine.run('slurm.sbatch', '--help')
    assert shown.returncode == 0 and shown.stdout.startswith('usage: sbatch ') and not shown.stderr
    words = ['--workdir=a b\'c"d', '$HOME']
    result = machine.run('slurm.sbatch', '--dry_run', '--', 'elastic-ast', 'train', *words)
    assert result.returncode == 0
    (line,) = [line for line in result.stdout.splitlines() if line.startswith('srun')]
    assert 'ELASTIC_AST_DISTRIBUTED=auto' in result.stdout
    printed = subprocess.run(
        ['bash', '-c', f'printf "%s\\n" {line}'], capture_output=True, text=True
    ).stdout.splitlines()
    assert printed[-4:] == ['elastic-ast', 'train', *words]


def test_options_of_the_file_suit_the_script():
    lines = (ROOT / 'launch' / 'slurm.sbatch').read_text().splitlines()
    words = [
        line.removeprefix('#SBATCH --').partition('=')
        for line in lines
        if line.startswith('#SBATCH')
    ]
    options = {name: value for name, _, value in words}
    assert (
        options['signal'] == 'TERM@120'
        and 'requeue' in options
        and options['open-mode'] == 'append'
    )
    assert options['ntasks-per-node'] == options['gpus-per-node'] and 'gpus-per-task' not in options
    assert all(line.startswith('#') for line in lines[:12]), (
        'SLURM reads options up to the first command only'
    )


def test_each_task_runs_the_command_unchanged(machine, slurm):
    words = ['a b\'c"d', '$HOME `id` *', '']
    code, output = slurm(
        '--', 'worker', *words, code='print("task", task)', SLURM_CPUS_PER_TASK='5'
    )
    assert code == 0, output
    assert machine.called('worker') == [words] * 3 and not machine.called('scontrol')
    for task in range(3):
        assert (
            machine.root / 'runs' / 'slurm' / '77' / f'{task}.log'
        ).read_text() == f'task {task}\n'
    (call,) = machine.called('srun')
    assert '--cpus-per-task=5' in call and '--kill-on-bad-exit=0' in call and '--wait=60' in call


def test_a_preempted_job_is_queued_again_each_time(machine, slurm):
    for start in range(3):
        code, output = slurm(
            '--restarts=0', '--', 'worker', code='sys.exit(75)', SLURM_RESTART_COUNT=str(start)
        )
        assert code == 75 and 'preempted (exit code 75)' in output and f'start {start}' in output
        assert machine.called('scontrol') == [['requeue', '77']] * (start + 1)


@pytest.mark.parametrize('code', [1, 2, 130])
def test_a_mistake_is_not_queued_again(machine, slurm, code):
    exit_code, output = slurm('--', 'worker', code=f'print("wrong key"); sys.exit({code})')
    assert exit_code == code and '| wrong key' in output and not machine.called('scontrol')


def test_the_first_end_decides_and_crashes_are_counted(machine, slurm):
    crash = """
if task == 1:
    print('out of luck', flush=True)
    os.kill(os.getpid(), 9)
time.sleep(0.5)
sys.exit(1)  # because the other one is gone
"""
    for queued in (1, 2):
        code, output = slurm('--restarts=2', '--', 'worker', code=crash)
        assert (
            code == 137
            and 'task 1 was the first to end: killed by SIGKILL' in output
            and '| out of luck' in output
        )
        assert len(machine.called('scontrol')) == queued
    code, output = slurm('--restarts=2', '--', 'worker', code=crash)
    assert (
        code == 137
        and 'giving up after 2 restarts' in output
        and len(machine.called('scontrol')) == 2
    )


def test_a_crash_of_srun_alone_is_a_crash(machine, slurm):
    machine.stand_in('srun', 'sys.exit(143)')
    code, output = slurm('--', 'worker')
    assert (
        code == 143
        and 'no task reported its end' in output
        and machine.called('scontrol') == [['requeue', '77']]
    )


def test_tasks_may_save_while_the_script_is_signaled(machine, slurm):
    save = """
(folder / f'up.{task}').touch()
while not (folder / 'signaled').exists():
    time.sleep(0.01)
time.sleep(0.5)
(folder / f'saved.{task}').touch()
sys.exit(75)
"""
    process = slurm.start('--', 'worker', code=save)
    until(lambda: len(list(machine.folder.glob('up.*'))) == 3)
    process.terminate()
    time.sleep(0.1)
    (machine.folder / 'signaled').touch()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75, output
    assert len(list(machine.folder.glob('saved.*'))) == 3 and machine.called('scontrol') == [
        ['requeue', '77']
    ]


def test_tasks_report_their_end_after_a_signal_that_reaches_their_shell_too(machine, slurm):
    save = """
import signal
def end(*_):
    time.sleep(0.2)
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
(folder / f'up.{task}').write_text(f'{os.getpid()} {os.getppid()}')
time.sleep(60)
"""
    process = slurm.start('--', 'worker', code=save)
    until(lambda: [bool(file.read_text()) for file in machine.folder.glob('up.*')] == [True] * 3)
    for file in machine.folder.glob('up.*'):
        for pid in file.read_text().split():
            os.kill(int(pid), signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75 and 'preempted' in output
    assert machine.called('scontrol') == [['requeue', '77']]


def test_a_task_of_an_array_is_queued_again_by_its_own_name(machine, slurm):
    code, _ = slurm(
        '--logs=a b',
        '--',
        'worker',
        code='sys.exit(75)',
        SLURM_ARRAY_JOB_ID='70',
        SLURM_ARRAY_TASK_ID='4',
    )
    assert code == 75 and machine.called('scontrol') == [['requeue', '70_4']]
    assert (machine.root / 'a b' / '70_4' / '0.log').exists()


def test_a_wrong_folder_is_refused(machine, slurm):
    process = subprocess.run(
        [machine.bin / 'bash', machine.folder / 'spool' / 'slurm_script', '--', 'worker'],
        cwd=machine.working_directory,
        text=True,
        env=machine.environment,
        capture_output=True,
    )
    assert process.returncode == 2 and 'is not the root of the repository' in process.stderr
    assert not machine.called('srun')

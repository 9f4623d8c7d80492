"""Test launch/tpu_pod.sh with a stand-in for gcloud: a slice of two workers that can be preempted.

The workers are folders. The project is unpacked and installed in them, with the stand-in for Python
of tests/fakes/checkout.py, and the command runs as a process.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess

import pytest

from tests.fakes.checkout import STAND_IN

HOSTS = ('t1v-n-0-w-0', 't1v-n-0-w-1')
# `cloud.json`: whether a TPU exists, its number, and how often its state was read. `lives` has the
# number of reads after which each TPU is preempted (null: never).
GCLOUD = """
import shutil, signal
file = folder / 'cloud.json'
cloud = json.loads(file.read_text())
homes = [folder / 'workers' / host for host in HOSTS]
options = dict(word.partition('=')[::2] for word in called if word.startswith('--'))
assert called[:2] == ['compute', 'tpus'] and '--quiet' in called
kind, action, name = called[2:5]

def gone():
    after = cloud['lives'][cloud['life']] if cloud['life'] < len(cloud['lives']) else None
    return after is not None and cloud['looks'] > after

def end_processes():
    for leader in folder.glob('workers/*/elastic-ast-run/leader'):
        try:
            os.killpg(int(leader.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass

if action == 'create':
    assert not cloud['exists'], 'ALREADY_EXISTS'
    shutil.rmtree(folder / 'workers', ignore_errors=True)
    for home in homes:
        home.mkdir(parents=True)
    cloud |= {'exists': True, 'life': cloud['life'] + 1, 'looks': 0}
    file.write_text(json.dumps(cloud))
elif action == 'describe':
    if (folder / 'offline').exists():
        (folder / 'offline').unlink()
        sys.exit('ERROR: (gcloud) there has been a problem with your connection')
    if not cloud['exists']:
        sys.exit("ERROR: (gcloud.compute.tpus) NOT_FOUND: "
                 f"Resource 'projects/p/{name}' was not found")
    cloud['looks'] += 1
    file.write_text(json.dumps(cloud))
    if gone():
        end_processes()
    if kind == 'queued-resources':
        waiting = 'WAITING_FOR_RESOURCES' if cloud['looks'] == 1 else 'ACTIVE'
        print('SUSPENDED' if gone() else waiting)
    else:
        print('PREEMPTED' if gone() else 'READY')
elif action == 'delete':
    assert cloud['exists']
    end_processes()
    file.write_text(json.dumps(cloud | {'exists': False}))
elif gone() or not cloud['exists']:
    sys.exit(255)
elif action == 'scp':
    assert options['--worker'] == 'all' and called[5] == 'ast:elastic-ast-jax.tar.gz'
    for home in homes:
        shutil.copy(name, home / 'elastic-ast-jax.tar.gz')
elif action == 'ssh':
    targets = homes if options['--worker'] == 'all' else [homes[int(options['--worker'])]]
    codes = [
        subprocess.run(
            ['bash', '-c', options['--command']], cwd=home, stdin=subprocess.DEVNULL,
            env={'PATH': os.environ['PATH'], 'HOME': str(home), 'HOSTNAME': home.name},
        ).returncode for home in targets]
    sys.exit(max(codes))
"""
# The command that is run. `life` is the number of the TPU, `start` the number of the start on it.
TRAINER = """
host = os.environ['HOSTNAME']
assert os.environ['ELASTIC_AST_DISTRIBUTED'] == 'auto'
life = json.loads((folder / 'cloud.json').read_text())['life']
start = len(list(folder.glob(f'begun.{host}.{life}.*')))
(folder / f'begun.{host}.{life}.{start}').touch()
while len(list(folder.glob(f'begun.*.{life}.{start}'))) < 2:
    time.sleep(0.01)
"""
WATCH = ('--name=ast', '--zone=us-west4-a', '--type=v5litepod-16')


@pytest.fixture
def cloud(machine):
    """Return `cloud(trainer, *lives)`: the code of the command, and the end of each TPU."""
    machine.quick_sleep()
    machine.stand_in('gcloud', f'HOSTS = {HOSTS!r}\n{GCLOUD}')
    machine.add_program('python3', STAND_IN)
    git = [
        'git',
        '-c',
        'user.name=a',
        '-c',
        'user.email=a@b',
        '-c',
        'init.defaultBranch=main',
        '-C',
        machine.root,
    ]
    for words in (['init', '-q'], ['add', '-A'], ['commit', '-qm', 'all']):
        subprocess.run([*git, *words], check=True)

    def prepare(trainer='', *lives, exists=False):
        machine.stand_in('trainer', TRAINER + trainer)
        state = {'exists': exists, 'life': -1, 'looks': 0, 'lives': lives}
        (machine.folder / 'cloud.json').write_text(json.dumps(state))
        return machine

    yield prepare
    for leader in machine.folder.glob('workers/*/elastic-ast-run/leader'):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(leader.read_text()), 9)


def actions(machine) -> list[str]:
    """Return the actions of gcloud that change something."""
    return [call[3] for call in machine.called('gcloud') if call[3] != 'describe']


def starts(machine) -> set[tuple[int, int]]:
    """Return the number of the TPU and of the start on it, for each start."""
    names = [file.name.split('.')[-2:] for file in machine.folder.glob('begun.*')]
    return {(int(tpu), int(start)) for tpu, start in names}


def test_the_dry_run_calls_nothing_and_prints_the_commands(machine):
    machine.stand_in('gcloud')
    words = ["--workdir=gs://b/it's a run", '$HOME']
    result = machine.run(
        'tpu_pod.sh', 'watch', *WATCH, '--spot', '--dry_run', '--', 'elastic-ast', 'train', *words
    )
    assert result.returncode == 0 and not machine.called('gcloud')
    lines = [line for line in result.stdout.splitlines() if line.startswith('gcloud')]
    kinds = [tuple(line.split()[2:5]) for line in lines]
    assert ('tpus', 'queued-resources', 'create') in kinds and ('tpus', 'tpu-vm', 'scp') in kinds
    assert kinds[-1] == ('tpus', 'queued-resources', 'delete')
    (start,) = [line for line in lines if r'tpu_worker.sh\ start' in line]
    # The local shell reads the words, and then the shell of the worker.
    local_words = subprocess.run(
        ['bash', '-c', f'printf "%s\\n" {start}'], capture_output=True, text=True
    ).stdout.splitlines()
    (command,) = [
        word.removeprefix('--command=') for word in local_words if word.startswith('--command=')
    ]
    worker_words = subprocess.run(
        ['bash', '-c', f'printf "%s\\n" {command}'], capture_output=True, text=True
    ).stdout.splitlines()
    assert worker_words[-4:] == ['elastic-ast', 'train', *words]


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (
            [],
            [
                'queued-resources',
                'create',
                'ast',
                '--node-id=ast',
                '--accelerator-type=v5litepod-16',
                '--runtime-version=v2-alpha-tpuv5-lite',
            ],
        ),
        (
            ['--spot', '--version=my v', '--project=p q'],
            [
                'queued-resources',
                'create',
                'ast',
                '--node-id=ast',
                '--accelerator-type=v5litepod-16',
                '--runtime-version=my v',
                '--spot',
                '--project=p q',
            ],
        ),
        (
            ['--node', '--spot'],
            [
                'tpu-vm',
                'create',
                'ast',
                '--accelerator-type=v5litepod-16',
                '--version=v2-alpha-tpuv5-lite',
                '--spot',
            ],
        ),
    ],
)
def test_create_requests_the_tpu_and_waits(cloud, options, expected):
    machine = cloud()
    result = machine.run('tpu_pod.sh', 'create', *WATCH, *options)
    assert result.returncode == 0, result.stderr
    (create,) = [call for call in machine.called('gcloud') if call[3] == 'create']
    assert set(expected) | {'compute', 'tpus', '--quiet', '--zone=us-west4-a'} == set(create)
    assert 'ast: READY' in result.stdout


def test_a_run_over_all_workers(cloud):
    words = ['--workdir=gs://b/it\'s "a run"', '$HOME `id` *', '']
    machine = cloud('print("from", host, flush=True)')
    result = machine.run('tpu_pod.sh', 'watch', *WATCH, '--', 'trainer', *words)
    assert result.returncode == 0, result.stderr
    assert machine.called('trainer') == [words] * 2
    assert actions(machine)[:2] == ['create', 'ssh'] and 'delete' not in actions(machine)
    assert 'the run is finished' in result.stdout and 'warning' not in result.stderr
    for host in HOSTS:
        assert (
            machine.folder / 'workers' / host / 'elastic-ast.log'
        ).read_text() == f'from {host}\n'
    installed = [call for call in machine.calls() if '--editable' in call]
    assert len(installed) == 2 and all('.[train,gcs,tpu]' in call for call in installed)


def test_a_preempted_node_is_created_again_and_the_run_resumes(cloud):
    machine = cloud('time.sleep(60) if life < 2 else None', 12, 9)
    result = machine.run(
        'tpu_pod.sh', 'watch', *WATCH, '--spot', '--', 'trainer', '--workdir=gs://b/w'
    )
    assert result.returncode == 0, result.stderr
    assert len(re.findall('ast was taken away: (?:SUSPENDED|PREEMPTED)', result.stdout)) == 2
    assert [action for action in actions(machine) if action not in ('ssh', 'scp')] == [
        'create',
        'delete',
        'create',
        'delete',
        'create',
    ]
    assert starts(machine) == {(0, 0), (1, 0), (2, 0)}
    deleted, _ = [call for call in machine.called('gcloud') if call[3] == 'delete']
    assert '--force' in deleted


@pytest.mark.slow
def test_a_node_without_a_queue_is_created_again_too(cloud):
    machine = cloud('time.sleep(60) if life == 0 else None', 8)
    result = machine.run(
        'tpu_pod.sh', 'watch', *WATCH, '--node', '--', 'trainer', '--workdir=gs://b/w'
    )
    assert result.returncode == 0, result.stderr
    assert 'ast was taken away: PREEMPTED' in result.stdout
    assert {call[2] for call in machine.called('gcloud')} == {'tpu-vm'}


def test_a_mistake_ends_watch_and_prints_the_last_lines(cloud):
    machine = cloud('print("wrong key", flush=True); sys.exit(1)')
    result = machine.run('tpu_pod.sh', 'watch', *WATCH, '--', 'trainer', '--workdir=runs/here')
    assert result.returncode == 1
    assert 'was the first to end: exit code 1' in result.stderr and '| wrong key' in result.stderr
    assert "on the workers' own disks" in result.stderr
    apart = machine.run(
        'tpu_pod.sh', 'run', '--name=ast', '--dry_run', '--', 'trainer', '--workdir', 'runs/here'
    )
    assert "--workdir=runs/here is on the workers' own disks" in apart.stderr
    assert starts(machine) == {(0, 0)} and 'delete' not in actions(machine)


@pytest.mark.slow
def test_after_a_crash_the_others_are_ended_and_all_start_again_on_the_same_tpu(cloud):
    machine = cloud("""
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if start == 0 and host.endswith('1'):
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60 if start == 0 else 0)
""")
    result = machine.run('tpu_pod.sh', 'watch', *WATCH, '--', 'trainer', '--workdir=gs://b/w')
    assert result.returncode == 0, result.stderr
    assert f'{HOSTS[1]} was the first to end: killed by SIGKILL' in result.stderr
    assert actions(machine).count('create') == 1 and starts(machine) == {(0, 0), (0, 1)}


@pytest.mark.slow
def test_restarts_are_limited(cloud):
    machine = cloud('sys.exit(75)')
    result = machine.run(
        'tpu_pod.sh', 'watch', *WATCH, '--restarts=2', '--', 'trainer', '--workdir=gs://b/w'
    )
    assert result.returncode == 1 and 'giving up after 2 restarts' in result.stderr
    assert starts(machine) == {(0, 0), (0, 1), (0, 2)}


def test_a_lost_connection_is_no_preemption(cloud):
    machine = cloud("""
(folder / 'offline').touch()
while (folder / 'offline').exists():
    time.sleep(0.01)
""")
    result = machine.run('tpu_pod.sh', 'watch', *WATCH, '--', 'trainer', '--workdir=gs://b/w')
    assert result.returncode == 0, result.stderr
    assert 'the state of ast is unknown: ERROR: (gcloud) there has been a problem' in result.stderr
    assert 'delete' not in actions(machine) and starts(machine) == {(0, 0)}


def test_nothing_is_done_if_the_state_is_unknown(cloud):
    machine = cloud()
    (machine.folder / 'offline').touch()
    result = machine.run('tpu_pod.sh', 'watch', *WATCH, '--', 'trainer', '--workdir=gs://b/w')
    assert result.returncode == 1 and 'the state of ast is unknown' in result.stderr
    assert not actions(machine)


def test_watch_joins_a_running_run(cloud):
    machine = cloud("""
while not (folder / 'enough').exists():
    time.sleep(0.01)
""")
    for action in ('create', 'setup'):
        assert machine.run('tpu_pod.sh', action, *WATCH).returncode == 0
    assert (
        machine.run(
            'tpu_pod.sh', 'run', '--name=ast', '--', 'trainer', '--workdir=gs://b/w'
        ).returncode
        == 0
    )
    again = machine.run('tpu_pod.sh', 'run', '--name=ast', '--', 'trainer', '--workdir=gs://b/w')
    assert again.returncode == 1 and 'a run is going on already' in again.stderr
    status = machine.run('tpu_pod.sh', 'status', '--name=ast')
    assert 'ast: READY' in status.stdout and f'run: 0 running {HOSTS[1]}' in status.stdout
    before = actions(machine).count('scp')
    watching = machine.start('tpu_pod.sh', 'watch', *WATCH, '--', 'trainer', '--workdir=gs://b/w')
    (machine.folder / 'enough').touch()
    output, _ = watching.communicate(timeout=30)
    assert watching.returncode == 0, output
    assert actions(machine).count('scp') == before and starts(machine) == {(0, 0)}


def test_logs_of_a_worker_and_deletion_on_request(cloud):
    machine = cloud()
    machine.run('tpu_pod.sh', 'create', *WATCH)
    (machine.folder / 'workers' / HOSTS[1] / 'elastic-ast.log').write_text('from worker 1\n')
    (machine.bin / 'tail').unlink()
    machine.add_program(
        'tail',
        f'#!BASH\n[[ $* == "-n 100 -F elastic-ast.log" ]] && exec {shutil.which("cat")} "${{@:'
        ' -1}"\n',
    )
    result = machine.run('tpu_pod.sh', 'logs', '--name=ast', '--worker=1')
    assert (result.returncode, result.stdout) == (0, 'from worker 1\n')
    assert machine.run('tpu_pod.sh', 'delete', '--name=ast', '--zone=z').returncode == 0
    assert machine.called('gcloud')[-1] == [
        'compute',
        'tpus',
        'queued-resources',
        'delete',
        'ast',
        '--quiet',
        '--zone=z',
        '--force',
    ]
    assert 'MISSING' in machine.run('tpu_pod.sh', 'status', '--name=ast').stdout


def test_setup_copies_the_commit_and_keeps_the_environment(cloud):
    machine = cloud()
    machine.run('tpu_pod.sh', 'create', *WATCH)
    (machine.root / 'later.txt').touch()
    result = machine.run('tpu_pod.sh', 'setup', '--name=ast')
    assert result.returncode == 0, result.stderr
    project = machine.folder / 'workers' / HOSTS[0] / 'elastic-ast-jax'
    (project / 'stale.txt').touch()
    (project / '.venv' / 'kept').touch()
    (machine.root / 'setup.cfg').open('a').write('# changed\n')
    again = machine.run('tpu_pod.sh', 'setup', '--name=ast')
    assert 'commit HEAD is copied, without the changes since' in again.stderr
    assert not (project / 'stale.txt').exists() and not (project / 'later.txt').exists()
    assert (project / '.venv' / 'kept').exists() and '# changed' not in (
        project / 'setup.cfg'
    ).read_text()


def test_data_are_fetched_to_each_worker_after_the_project(cloud):
    machine = cloud()
    machine.run('tpu_pod.sh', 'create', *WATCH)
    command = "[ -d elastic-ast-jax/.venv ] && mkdir -p data && printf '%s' \"it's\" > 'data/a b'"
    result = machine.run('tpu_pod.sh', 'setup', '--name=ast', f'--fetch={command}')
    assert result.returncode == 0, result.stderr
    assert {(machine.folder / 'workers' / host / 'data' / 'a b').read_text() for host in HOSTS} == {
        "it's"
    }
    (machine.folder / 'workers' / HOSTS[0] / 'data' / 'a b').write_text('changed here')
    machine.run('tpu_pod.sh', 'setup', '--name=ast', f'--fetch={command}')  # once is enough
    assert (machine.folder / 'workers' / HOSTS[0] / 'data' / 'a b').read_text() == 'changed here'
    failed = machine.run('tpu_pod.sh', 'setup', '--name=ast', '--fetch=exit 3')
    assert failed.returncode == 1 and 'the data are not on all workers' in failed.stderr


def test_workers_can_fetch_a_commit_themselves(cloud):
    machine = cloud()
    machine.run('tpu_pod.sh', 'create', *WATCH)
    for _ in range(2):
        result = machine.run(
            'tpu_pod.sh', 'setup', '--name=ast', f'--repository={machine.root}', '--commit=main'
        )
        assert result.returncode == 0, result.stderr
    assert 'scp' not in actions(machine)
    for host in HOSTS:
        assert (
            machine.folder / 'workers' / host / 'elastic-ast-jax' / 'launch' / 'tpu_worker.sh'
        ).exists()


def test_a_missing_gcloud_is_named(machine):
    result = machine.run('tpu_pod.sh', 'status', '--name=ast')
    assert result.returncode == 1 and 'gcloud is not on PATH' in result.stderr

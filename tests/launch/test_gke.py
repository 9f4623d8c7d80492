"""Test launch/gke.yaml and launch/gke.sh, which fills it in."""

import re

import pytest

from elastic_ast_jax.distributed import identity
from tests.fakes.machine import ROOT

yaml = pytest.importorskip('yaml')

OPTIONS = (
    '--name=ast',
    '--image=reg/ast:1',
    '--accelerator=tpu-v5p-slice',
    '--topology=2x2x4',
    '--bucket=bucket',
    '--config=configs/fsdd.py:ast',
)


@pytest.fixture
def kubectl(machine):
    machine.stand_in(
        'kubectl',
        "(folder / 'stdin').write_text(sys.stdin.read() if called[-1] == '--filename=-' else '')",
    )
    return machine


@pytest.fixture
def filled(kubectl):
    """Return a function that returns the JobSet of `apply` with further arguments."""

    def fill_in(*arguments):
        result = kubectl.run('gke.sh', 'apply', '--dry_run', *OPTIONS, *arguments)
        assert result.returncode == 0, result.stderr
        assert not kubectl.called('kubectl')
        return yaml.safe_load(result.stdout)

    return fill_in


def job(jobset: dict) -> dict:
    (slices,) = jobset['spec']['replicatedJobs']
    return slices['template']['spec']


def container(jobset: dict) -> dict:
    (only_container,) = job(jobset)['template']['spec']['containers']
    return only_container


def restart_action(jobset: dict, message: str) -> str:
    """Return the action of the first rule that matches a failed Job's message."""
    for rule in jobset['spec']['failurePolicy']['rules']:
        patterns = rule['onJobFailureMessagePatterns']
        if 'PodFailurePolicy' in rule['onJobFailureReasons'] and any(
            re.search(pattern, message) for pattern in patterns
        ):
            return rule['action']
    return 'RestartJobSet'


def test_the_template_is_a_valid_job_set():
    jobset = yaml.safe_load((ROOT / 'launch' / 'gke.yaml').read_text())
    assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    assert (
        job(jobset)['completions'] == job(jobset)['parallelism']
        and job(jobset)['completionMode'] == 'Indexed'
    )
    assert container(jobset)['command'] == ['elastic-ast', 'train']
    assert {'name': 'ELASTIC_AST_DISTRIBUTED', 'value': 'auto'} in container(jobset)['env']


def test_a_restart_is_known_as_one_of_the_same_job():
    jobset = yaml.safe_load((ROOT / 'launch' / 'gke.yaml').read_text())
    fields = {
        entry['name']: entry['valueFrom']['fieldRef']['fieldPath']
        for entry in container(jobset)['env']
        if 'valueFrom' in entry
    }
    assert fields == {
        identity.JOB: "metadata.annotations['jobset.sigs.k8s.io/jobset-uid']",
        identity.START: "metadata.annotations['jobset.sigs.k8s.io/restart-attempt']",
    }


def test_the_exit_code_decides_the_restart():
    jobset = yaml.safe_load((ROOT / 'launch' / 'gke.yaml').read_text())
    rules = job(jobset)['podFailurePolicy']['rules']
    assert {rule['action'] for rule in rules} == {'FailJob'}

    def action(code=None, condition=None):
        for index, rule in enumerate(rules):
            codes, conditions = (
                rule.get('onExitCodes', {}),
                [entry['type'] for entry in rule.get('onPodConditions', [])],
            )
            if code in codes.get('values', []) or condition in conditions:
                what = f'exit code {code}' if condition is None else f'condition {condition}'
                return restart_action(
                    jobset,
                    f'Pod default/ast-slice-0-0 has {what} matching FailJob rule at index {index}',
                )
        return None

    assert action(75) == action(condition='DisruptionTarget') == 'RestartJobSetAndIgnoreMaxRestarts'
    assert action(1) == action(2) == 'FailJobSet'
    assert (
        action(134) is None and job(jobset)['backoffLimit'] == 0
    )  # the Job fails, and the set starts again
    assert jobset['spec']['failurePolicy']['maxRestarts'] > 0
    # A pod failure policy requires these.
    assert job(jobset)['template']['spec']['restartPolicy'] == 'Never'
    assert {rule['onExitCodes']['containerName'] for rule in rules if 'onExitCodes' in rule} == {
        container(jobset)['name']
    }


def test_options_are_filled_in(filled):
    jobset = filled('--slices=3', '--restarts=7', '--spot', '--service_account=writer')
    assert jobset['metadata']['name'] == 'ast'
    assert jobset['spec']['replicatedJobs'][0]['replicas'] == 3
    assert jobset['spec']['failurePolicy']['maxRestarts'] == 7
    assert job(jobset)['parallelism'] == job(jobset)['completions'] == 4
    pod = job(jobset)['template']['spec']
    assert pod['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': 'tpu-v5p-slice',
        'cloud.google.com/gke-tpu-topology': '2x2x4',
        'cloud.google.com/gke-spot': 'true',
    }
    assert pod['serviceAccountName'] == 'writer'
    assert container(jobset)['image'] == 'reg/ast:1'
    assert container(jobset)['args'] == [
        '--config=configs/fsdd.py:ast',
        '--workdir=gs://bucket/ast',
    ]
    assert container(jobset)['resources'] == {'limits': {'google.com/tpu': 4}}


def test_the_bucket_is_mounted_for_reading(filled):
    job_template = job(filled('--bucket=store/runs'))['template']
    (volume,) = job_template['spec']['volumes']
    assert volume['csi']['volumeAttributes'] == {
        'bucketName': 'store',
        'mountOptions': 'implicit-dirs',
    }
    assert volume['csi']['readOnly']
    assert job_template['metadata']['annotations'] == {'gke-gcsfuse/volumes': 'true'}
    (mount,) = job_template['spec']['containers'][0]['volumeMounts']
    assert (mount['name'], mount['mountPath']) == (volume['name'], '/bucket')


def test_absent_options_drop_their_lines(filled):
    pod = job(filled())['template']['spec']
    assert (
        'cloud.google.com/gke-spot' not in pod['nodeSelector'] and 'serviceAccountName' not in pod
    )


@pytest.mark.parametrize(
    ('topology', 'chips', 'expected'),
    [
        ('1x1', [], (1, 1)),
        ('2x2', [], (4, 1)),
        ('2x4', [], (4, 2)),
        ('2x4', ['--chips=8'], (8, 1)),
        ('16x16', [], (4, 64)),
    ],
)
def test_hosts_are_chips_divided(filled, topology, chips, expected):
    jobset = filled(f'--topology={topology}', *chips)
    assert (
        container(jobset)['resources']['limits']['google.com/tpu'],
        job(jobset)['parallelism'],
    ) == expected


def test_overrides_arrive_unchanged(filled):
    """YAML keeps them, and Kubernetes, which reads `$(NAME)` as a variable and `$$` as `$`."""
    words = [
        '--config.data.root=it\'s "a" \\ folder: # <- name',
        '--config.data.train=$(HOME) $$ `id` & *',
        '--config.a.b=é',
    ]
    arguments = container(filled('--', *words))['args'][2:]
    assert [word.replace('$$', '$') for word in arguments] == words
    assert all('$' not in word.replace('$$', '') for word in arguments)


def test_apply_passes_the_job_set_to_kubectl(kubectl, filled):
    expected = filled('--', '--config.train.seed=3')
    result = kubectl.run(
        'gke.sh', 'apply', '--namespace=mine', *OPTIONS, '--', '--config.train.seed=3'
    )
    assert result.returncode == 0, result.stderr
    assert kubectl.called('kubectl') == [['--namespace=mine', 'apply', '--filename=-']]
    assert yaml.safe_load((kubectl.folder / 'stdin').read_text()) == expected
    assert 'gke.sh logs --name=ast --namespace=mine' in result.stdout


def test_logs_and_deletion(kubectl):
    assert kubectl.run('gke.sh', 'logs', '--name=ast', '--host=2').returncode == 0
    assert kubectl.run('gke.sh', 'delete', '--name=ast').returncode == 0
    logs, delete = kubectl.called('kubectl')
    assert (
        logs[:2] == ['logs', '--follow']
        and logs[-1]
        == '--selector=jobset.sigs.k8s.io/jobset-name=ast,jobset.sigs.k8s.io/job-index=0,'
        'batch.kubernetes.io/job-completion-index=2'
    )
    assert delete == ['delete', 'jobset', 'ast']

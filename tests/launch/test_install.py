"""Test the installation scripts and the declared dependencies, without installing anything.

Scripts run in a copy of the checkout, in a folder with a space in its name. PATH has only the
tools that they may use, and a stand-in for Python. It records the calls of pip and pytest, and
passes other calls to the real Python.
"""

import configparser
import pathlib
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.fakes.checkout import STAND_IN, Checkout

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / 'launch').glob('*.sh'))
EXTRAS = (
    'train',
    'test',
    'gcs',
    'prepare',
    'dataflow',
    'tpu',
    'compile',
    'cuda12',
    'cuda13',
    'hear',
    'convert',
    'docs',
)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.fixture
def ready(checkout):
    """A checkout on a machine that has a Python."""
    checkout.add_program('python3', STAND_IN)
    return checkout


@pytest.mark.parametrize('script', [*SCRIPTS, ROOT / '.ci' / 'run'], ids=lambda path: path.name)
def test_script_parses(script):
    subprocess.run(['bash', '-n', script], check=True)


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_help_prints_usage_and_touches_nothing(checkout, script):
    result = checkout.run(script.name, '--help')
    assert result.returncode == 0
    assert result.stdout.startswith(f'usage: bash launch/{script.name}')
    assert not result.stderr
    assert not (checkout.root / '.venv').exists()


def one_line(done: subprocess.CompletedProcess) -> str:
    """Return the only line that a failing script printed."""
    assert done.returncode == 1
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize('script', ['install.sh', 'quickstart.sh', 'test.sh'])
def test_the_error_of_a_missing_python_names_the_packages(checkout, script):
    line = one_line(checkout.run(script))
    assert 'Python 3.11 or newer is missing' in line
    assert 'apt-get install python3 python3-venv' in line
    assert not (checkout.root / '.venv').exists()


def test_old_python_is_named(checkout):
    checkout.add_program(
        'python3', '#!BASH\ncase "$2" in *version_info?:2*) echo 3.10 ;; *) exit 1 ;; esac\n'
    )
    line = one_line(checkout.run('install.sh'))
    assert 'python3 is 3.10' in line
    assert 'apt-get install python3.11 python3.11-venv' in line


NO_VENV = '#!BASH\ncase "$2" in *ensurepip*) exit 1 ;; esac\nexec "REAL" "$@"\n'


def test_the_error_of_a_missing_venv_module_names_the_package(checkout):
    checkout.add_program('python3', NO_VENV)
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    line = one_line(checkout.run('install.sh'))
    assert f'Python {version} is installed, but its modules venv and ensurepip are missing' in line
    assert f'sudo apt-get install python{version}-venv' in line


def test_a_python_without_venv_and_a_dead_shim_are_skipped(ready):
    ready.add_program('python3.11', NO_VENV)
    ready.add_program('python3.12', '#!BASH\necho "python3.12: command not found" >&2\nexit 127\n')
    assert ready.run('install.sh').returncode == 0
    assert len(ready.calls()) == 1


def test_installs_once_and_then_does_nothing(ready):
    assert (
        ready.run(
            'install.sh', 'test', PYTHONPATH='/active', VIRTUAL_ENV='/active', PIP_USER='1'
        ).returncode
        == 0
    )
    (call,) = ready.calls()
    assert ' -c launch/constraints.txt ' in call
    assert call.endswith(
        f'--editable .[train,test,gcs,prepare] in {ready.root} with PYTHONPATH= PIP_USER='
    )
    for extras in (['test'], ['train'], [], ['test,train']):
        again = ready.run('install.sh', *extras)
        assert (again.returncode, again.stdout, again.stderr) == (0, '', '')
    assert len(ready.calls()) == 1


def test_installed_extras_stay_when_one_is_added_or_the_ranges_change(ready):
    ready.run('install.sh', 'tpu')
    ready.run('install.sh', 'train')
    with open(ready.root / 'setup.cfg', 'a') as file:
        file.write('# another range\n')
    ready.run('install.sh')
    assert [re.findall(r'--editable (\S+)', call)[0] for call in ready.calls()] == [
        '.[tpu]',
        '.[train,tpu]',
        '.[train,tpu]',
    ]


def test_a_moved_checkout_is_installed_again(ready):
    ready.run('install.sh')
    ready.root = ready.root.rename(ready.root.with_name('moved'))
    ready.run('install.sh')
    assert len(ready.calls()) == 2


def test_a_killed_installation_starts_anew(ready):
    assert ready.run('install.sh', 'train', PIP_DOES='kill -KILL $PPID').returncode != 0
    (ready.root / '.venv' / 'half_a_package.py').touch()
    result = ready.run('install.sh', 'train')
    assert result.returncode == 0
    assert 'interrupted: starting anew' in result.stdout
    assert not (ready.root / '.venv' / 'half_a_package.py').exists()
    assert len(ready.calls()) == 2


def test_a_failed_installation_is_reported_and_repeated_in_the_same_environment(ready):
    failed = ready.run('install.sh', PIP_DOES='exit 1')
    assert failed.returncode == 1
    assert 'pip could not install elastic-ast-jax' in failed.stderr
    (ready.root / '.venv' / 'kept').touch()
    assert ready.run('install.sh').returncode == 0
    assert (ready.root / '.venv' / 'kept').exists()
    assert len(ready.calls()) == 2


@pytest.mark.parametrize('platform', ['3.12 Linux x86_64', '3.11 Darwin arm64'])
def test_other_platforms_use_the_ranges_alone(ready, platform):
    result = ready.run('install.sh', PLATFORM=platform)
    assert result.returncode == 0
    assert f'this is Python {platform}: the ranges of setup.cfg alone decide' in result.stdout
    assert 'constraints' not in ready.calls()[0]


def test_wrong_extras_are_refused(ready):
    refused = one_line(ready.run('install.sh', 'train,gpu'))
    assert (
        "there is no extra 'gpu': choose from train test gcs prepare dataflow tpu compile cuda12"
        ' cuda13 hear' in refused
    )
    ready.run('install.sh', 'cuda12')
    assert 'cuda12 and cuda13 exclude each other' in one_line(ready.run('install.sh', 'cuda13'))
    assert len(ready.calls()) == 1


def test_fast_runs_tests_of_this_repository(ready):
    assert ready.run('test.sh', '--fast', '-x').returncode == 0
    words = ready.calls()[-1].removesuffix(f' in {ready.root}').split()
    assert words[:2] == ['-m', 'pytest'] and words[3:5] == ['-n', '2'] and words[-1] == '-x'
    assert len(words) > 20
    assert [word for word in words[5:-1] if not (ROOT / word).exists()] == []


@pytest.mark.parametrize(
    ('arguments', 'passed'),
    [
        (['-x', 'tests/packing/test_packer.py'], '-x tests/packing/test_packer.py'),
    ],
)
def test_test_runs_pytest_in_the_root(ready, arguments, passed):
    assert ready.run('test.sh', *arguments).returncode == 0
    assert ready.calls()[-1] == f'-m pytest {passed} in {ready.root}'


def test_slow_tests_that_measure_time_run_one_at_a_time(ready):
    assert ready.run('test.sh', '--slow', '-x').returncode == 0
    together, alone = ready.calls()[-2:]
    shapes = '--jaxtyping-packages=elastic_ast_jax,beartype.beartype'
    parallel = f'{shapes} -m slow and not alone -n 2 --dist loadfile -x'
    assert together == f'-m pytest {parallel} in {ready.root}'
    assert alone == f'-m pytest -m slow and alone -x in {ready.root}'


@pytest.mark.parametrize(
    ('codes', 'code'),
    [((0, 0), 0), ((1, 0), 1), ((0, 1), 1), ((5, 0), 0), ((0, 5), 0), ((5, 1), 1), ((1, 5), 1)],
)
def test_either_part_of_the_slow_tests_can_fail_or_be_empty(ready, codes, code):
    together, alone = codes
    does = f'case "$*" in *not*) exit {together} ;; *) exit {alone} ;; esac'
    assert ready.run('test.sh', '--slow', PYTEST_DOES=does).returncode == code


@pytest.mark.parametrize('arguments', [['--fast'], ['one', 'two']])
def test_quickstart_refuses_unknown_arguments_before_installing(ready, arguments):
    result = ready.run('quickstart.sh', *arguments)
    assert result.returncode == 2
    assert 'usage:' in result.stderr
    assert not ready.calls()


# Declarations of setup.cfg and launch/constraints.txt


@pytest.fixture(scope='module')
def setup_cfg():
    parser = configparser.RawConfigParser()
    parser.read(ROOT / 'setup.cfg')
    return parser


@pytest.fixture(scope='module')
def pins():
    lines = (ROOT / 'launch' / 'constraints.txt').read_text().splitlines()
    matches = [
        re.fullmatch(r'([a-z0-9._-]+)==([A-Za-z0-9.+!]+)', line)
        for line in lines
        if not line.startswith('#')
    ]
    assert all(matches), 'a line of launch/constraints.txt is not NAME==VERSION'
    return {canonicalize_name(match[1]): match[2] for match in matches if match}


def requirements(setup_cfg: configparser.RawConfigParser) -> list[Requirement]:
    """Return the requirements of the project and its extras, on the platform of the constraints."""
    texts = [
        setup_cfg['options']['install_requires'],
        *setup_cfg['options.extras_require'].values(),
    ]
    lines = [
        line for text in texts for line in text.splitlines() if line and not line.startswith('#')
    ]
    platform = {
        'python_version': '3.11',
        'sys_platform': 'linux',
        'platform_machine': 'x86_64',
        'platform_system': 'Linux',
    }
    external = [
        requirement
        for line in lines
        if (requirement := Requirement(line)).name != setup_cfg['metadata']['name']
    ]
    return [
        requirement
        for requirement in external
        if requirement.marker is None or requirement.marker.evaluate(platform)
    ]


def test_constraints_satisfy_every_range(setup_cfg, pins):
    required = requirements(setup_cfg)
    assert len(required) > 15
    for requirement in required:
        name = canonicalize_name(requirement.name)
        assert name in pins, f'{name} has no version in launch/constraints.txt'
        assert requirement.specifier.contains(pins[name]), (
            f'{name}=={pins[name]} is outside {requirement.specifier}'
        )


def test_ranges_have_an_upper_bound(setup_cfg):
    unbounded = [
        str(requirement)
        for requirement in requirements(setup_cfg)
        if '<' not in str(requirement.specifier)
    ]
    assert {Requirement(text).name for text in unbounded} <= {'packaging', 'importlib_resources'}


def test_constraints_name_no_index_or_file(pins):
    text = (ROOT / 'launch' / 'constraints.txt').read_text()
    assert not re.search(
        r'://|--index|--extra-index|--find-links|^\s*-|\bfile:', text, re.MULTILINE
    )
    assert {
        'tensorflow-cpu',
        'libtpu',
        'jax-cuda12-plugin',
        'jax-cuda13-plugin',
        'pytest',
    } <= pins.keys()


def test_extras(setup_cfg):
    extras = setup_cfg['options.extras_require']
    assert tuple(extras) == EXTRAS
    assert 'elastic-ast-jax[train]' in extras['test'], (
        'launch/install.sh counts train as installed with test'
    )
    for extra in EXTRAS:
        assert re.search(
            rf'^extras=\(.*\b{extra}\b', (ROOT / 'launch' / 'install.sh').read_text(), re.MULTILINE
        )


def test_default_dependencies_exclude_tensorflow(setup_cfg):
    assert 'tensorflow' not in setup_cfg['options']['install_requires']


def test_every_folder_with_code_is_a_package():
    """`find_packages` would leave a folder without `__init__.py` out of a wheel, silently."""
    folders = {path.parent for path in (ROOT / 'elastic_ast_jax').rglob('*.py')}
    assert [str(folder) for folder in folders if not (folder / '__init__.py').exists()] == []

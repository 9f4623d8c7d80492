"""Test compilation for absent TPUs; most tests need libtpu, in a process of its own."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from elastic_ast_jax.cli.main import main
from elastic_ast_jax.perf import topologies
from elastic_ast_jax.perf.compiled_step import CompiledStep, compile_step
from elastic_ast_jax.perf.max_rows import max_rows
from elastic_ast_jax.perf.topologies import TopologyError

ROOT = Path(__file__).parents[2]
# Beside the environment's packages and not among them, where all of JAX would look for a TPU: see
# .ci/run.
BESIDE = Path(sys.prefix) / 'libtpu'
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None and not BESIDE.is_dir(),
    reason='libtpu is not installed',
)
SMALL = (
    '--config.model.size=Mi',
    '--config.model.depth=1',
    '--config.packing.tokens=512',
    '--config.packing.rows=4',
)


@pytest.fixture
def config(tmp_path):
    file = tmp_path / 'config.py'
    file.write_text(
        'from ml_collections import ConfigDict\n\ndef get_config():\n    config = ConfigDict()\n   '
        " config.data = dict(source='synthetic', synthetic_train=200)\n    config.model ="
        " dict(size='B')\n    config.train = dict(loss='bce')\n    return config\n"
    )
    return file


def run(config, *arguments, timeout=580):
    environment = {name: value for name, value in os.environ.items() if name != 'JAX_PLATFORMS'}
    environment |= {'PYTHONPATH': f'{ROOT}{os.pathsep}{BESIDE}'}
    return subprocess.run(
        [sys.executable, '-m', 'elastic_ast_jax', 'compile', f'--config={config}', *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def numbers(line):
    return [float(number) for number in re.findall(r'\d+\.\d+', line)]


@pytest.mark.parametrize(
    'name, message',
    [
        ('v5e', 'v5e:16x16'),
        ('v9:2x2', 'v4, v5e, v5p, v6e'),
        ('v5e:2x2x2', '2 axes'),
        ('v4:2x2', '3 axes'),
        ('v6e:32x32', '1024 chips'),
        ('v5e:0x2', 'v5e:16x16'),
    ],
)
def test_wrong_topologies_are_refused(name, message):
    with pytest.raises(TopologyError, match=re.escape(message)):
        topologies.parse(name)


def test_generation_and_extent():
    assert topologies.parse('v5e:16x16') == ('v5e', (16, 16)) and topologies.parse('v5p:4x4x4') == (
        'v5p',
        (4, 4, 4),
    )


def test_without_libtpu_the_error_says_how_to_install_it(config, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name, *more: None if name == 'libtpu' else find_spec(name, *more),
    )
    monkeypatch.setattr(topologies.os, 'environ', dict(os.environ))
    assert main(['compile', f'--config={config}', '--topology=v5e:2x4']) == 1
    assert 'bash launch/install.sh compile' in capsys.readouterr().err


@pytest.mark.parametrize('limit', [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize('bent', [False, True])
def test_the_search_finds_the_most_rows_in_few_attempts(limit, bent):
    """Memory need not be quite a line: above 5 rows, less is needed for each."""
    attempts = []

    def attempt(rows):
        attempts.append(rows)
        needed = 10.0 + 2 * rows - (bent and 0.3 * max(0, rows - 5))
        return CompiledStep(1.0, rows <= limit, needed, None if rows <= limit else 10.0 + 2 * limit)

    rows, best = max_rows(attempt, 8, 10.0 + 2 * limit)
    assert rows == limit and (best is None) == (limit == 0)
    assert len(attempts) == len(set(attempts)) and len(attempts) <= 12


@pytest.mark.parametrize(
    'text',
    [
        (
            'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO'
            ' temporaries (17.50G) exceeds available HBM (15.75G).'
        ),
        (
            'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm.'
            ' Exceeded hbm capacity by 1.75G.'
        ),
    ],
)
def test_a_step_that_does_not_fit_has_the_numbers_of_the_compiler(text):
    def refused():
        raise jax.errors.JaxRuntimeError(text)

    step = compile_step(refused)
    assert not step.fits and (step.needed, step.limit) == (17.5 * 2**30, 15.75 * 2**30)


@pytest.mark.slow
@needs_libtpu
def test_a_small_step_compiles_for_a_pod_slice(config):
    result = run(config, '--topology=v5e:2x2', *SMALL)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    total, *parts = numbers(next(line for line in lines if line.startswith('| train | yes')))[:4]
    assert total == pytest.approx(sum(parts), abs=0.03)
    reduced = next(line for line in lines if line.startswith('| train | all-reduce'))
    assert (
        int(reduced.split('|')[4].replace(',', '')) > 2 * 12 * 128**2
    )  # every gradient crosses the devices, in bfloat16
    assert 'lengths of the training data' in lines[-1] and 'attention: splash' in result.stderr


@needs_libtpu
@pytest.mark.slow
def test_a_step_that_does_not_fit_is_reported(config):
    result = run(
        config,
        '--topology=v5e:1x1',
        '--check',
        '--lengths=audioset',
        '--config.model.scan=true',
        '--config.packing.rows=32',
    )
    assert result.returncode == 1, result.stderr
    assert '| train | no |' in result.stdout and '--config.model.remat=true' in result.stderr


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    'topology, rows',
    [('v5e:16x16', 1024), ('v5p:4x4x4', 1024), ('v6e:16x16', 2048), ('v4:2x2x1', 16)],
)
def test_vit_b_compiles(config, topology, rows):
    result = run(
        config,
        f'--topology={topology}',
        '--check',
        '--lengths=audioset',
        '--config.model.scan=true',
        f'--config.packing.rows={rows}',
    )
    assert result.returncode == 0, result.stderr + result.stdout

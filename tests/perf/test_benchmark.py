"""Test measurements of steps: their figures agree, and only JAX and its like are needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from elastic_ast_jax.cli.main import main
from elastic_ast_jax.perf import benchmark

ROOT = Path(__file__).parents[2]
SMALL = (
    'benchmark',
    '--size=Mi',
    '--tokens=512',
    '--rows=1',
    '--steps=1',
    '--config.model.depth=1',
    '--config.model.width=32',
    '--config.model.heads=2',
)

# Nothing else can be found. The second and third line of names are what these libraries are made
# of.
ALONE = """
import sys

ALLOWED = set(sys.stdlib_module_names) | {
    'elastic_ast_jax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'absl', 'ml_collections',
    'jaxtyping', 'ml_dtypes', 'opt_einsum', 'flatbuffers', 'msgpack', 'yaml', 'etils', 'rich',
    'pygments', 'typing_extensions',
    'markdown_it', 'mdurl', 'treescope', 'humanize',
}

class Only:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        top = name.partition('.')[0]
        allowed = top in ALLOWED or top.startswith('_sysconfig')
        return self.finder.find_spec(name, path, target) if allowed else None

sys.meta_path[:] = map(Only, sys.meta_path)
for name in ('tensorflow', 'librosa', 'orbax', 'scipy', 'soundfile', 'matplotlib'):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f'{name} could be imported')
from elastic_ast_jax.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def lines(capsys, *arguments):
    assert main([*SMALL, '--json', *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_only_jax_and_its_like_are_needed_and_the_figures_agree():
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
    command = [
        sys.executable,
        '-c',
        ALONE,
        *SMALL,
        '--attention=reference',
        '--peak=1e12',
        '--json',
    ]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    train, predict = map(json.loads, process.stdout.splitlines())
    assert (train['step'], predict['step']) == ('train', 'predict')
    for result in (train, predict):
        assert result['attention'] == 'reference' and result['memory'] > 0 and result['seconds'] > 0
        assert 0 < result['tokens'] <= 512 and 0 < result['clips'] <= 4
        assert result['clips_per_second'] == pytest.approx(result['clips'] / result['seconds'])
        assert result['peak_share'] == pytest.approx(result['flops_per_second'] / 1e12)
    assert train['flops'] > 2 * predict['flops']
    assert train['memory'] > predict['memory']


@pytest.mark.slow
def test_implementations_stand_side_by_side(capsys):
    reference, blocked = lines(
        capsys, '--predict', '--attention=reference', '--attention=blocked, 64'
    )
    assert (reference['attention'], blocked['attention']) == ('reference', 'blocked, 64 x 128')
    assert all(reference[key] == blocked[key] for key in ('clips', 'tokens', 'flops', 'peak_share'))
    assert reference['peak_share'] is None  # of a processor, nothing is known


def test_an_unknown_attention_is_named(capsys):
    assert main([*SMALL, '--attention=flashy']) == 1
    assert 'flashy' in (message := capsys.readouterr().err) and "'reference'" in message


def test_failed_measurements_have_a_row():
    table = benchmark.table([benchmark.Measurement('reference', 'train', 'out of memory')])
    assert '| train | reference | out of memory |' in table
    assert len({line.count('|') for line in table.splitlines()}) == 1

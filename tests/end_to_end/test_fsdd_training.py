"""Train on real speech, the Free Spoken Digit Dataset.

The environment variable FSDD names its folder.
"""

import itertools
import json
import os
from pathlib import Path

import pytest

from elastic_ast_jax.cli.main import main

CONFIGS = Path(__file__).parents[2] / 'configs'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        'FSDD' not in os.environ, reason='set FSDD to the folder of the FSDD recordings'
    ),
]


def accuracy(workdir: Path) -> float:
    """Of the last checkpoint, from `elastic-ast evaluate` of the workdir alone."""
    assert main(['evaluate', f'--workdir={workdir}']) == 0
    metrics = json.loads((workdir / 'eval' / 'metrics.json').read_text())
    assert metrics['clips'] == 300
    return metrics['accuracy']


def lowest_fill(workdir: Path) -> float:
    """Of logged windows that do not reach an epoch's end, whose last batch may have empty rows."""
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    train = [line for line in lines if line['kind'] == 'train']
    inside = [
        now['fill'] for now, after in itertools.pairwise(train) if now['epoch'] == after['epoch']
    ]
    return min(inside)


def test_fsdd_config(tmp_path, capsys):
    recordings = Path(os.environ['FSDD']).absolute()
    workdir = tmp_path / 'W'
    arguments = [
        f'--config={CONFIGS / "fsdd.py"}',
        f'--config.data.root={recordings}',
        f'--workdir={workdir}',
    ]
    assert main(['train', *arguments]) == 0
    assert accuracy(workdir) >= 0.98
    assert lowest_fill(workdir) >= 0.995
    capsys.readouterr()
    assert main(['predict', str(workdir), str(recordings / '7_george_0.wav'), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['predictions'][0]['label'] == '7'


def test_the_same_recordings_as_a_manifest(tmp_path):
    for split, is_held_out in (('train', False), ('test', True)):
        with open(tmp_path / f'{split}.jsonl', 'w', encoding='utf-8') as manifest:
            for file in sorted(Path(os.environ['FSDD']).absolute().glob('*.wav')):
                digit, _, index = file.stem.split('_')
                if (int(index) < 5) == is_held_out:
                    manifest.write(json.dumps({'audio': str(file), 'labels': [digit]}) + '\n')
    workdir = tmp_path / 'W'
    arguments = [
        f'--config={CONFIGS / "manifest.py"}',
        f'--config.data.train={tmp_path / "train.jsonl"}',
        f'--config.data.eval={tmp_path / "test.jsonl"}',
        f'--workdir={workdir}',
    ]
    assert main(['train', *arguments]) == 0
    assert accuracy(workdir) >= 0.97

"""Test which split an evaluator names in its messages."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config import loading
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.sources.base import DataError, FileSource
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.evaluation.evaluator import Evaluator
from elastic_ast_jax.training.skipped_clips import report_skipped
from elastic_ast_jax.utils.progress import Progress


@pytest.fixture
def config(tmp_path):
    """Return a config of 30 short clips, of which a part selects checkpoints."""
    rng, lines = np.random.default_rng(0), []
    for clip in range(30):
        soundfile.write(tmp_path / f'{clip}.flac', 0.1 * rng.standard_normal(4000), 16000)
        lines.append({'audio': f'{clip}.flac', 'labels': ['ab'[clip % 2]]})
    manifest = tmp_path / 'all.jsonl'
    manifest.write_text('\n'.join(map(json.dumps, lines)))
    data = {'train': str(manifest), 'eval': str(manifest), 'validation_share': 0.3}
    data |= {'eval_share': 0.3, 'on_bad_audio': 'skip'}
    return loading.from_dict({'data': data, 'packing': {'rows': 1, 'tokens': 512}})


def zero_logits(params, batch):
    """Return the outputs of a model that knows nothing."""
    logits = np.zeros((*batch.valid.shape, 2))
    return SimpleNamespace(logits=logits, valid=batch.valid, clip_id=batch.clip_id)


@pytest.mark.parametrize(
    ('split', 'name'), [('train', 'training'), ('validation', 'validation'), ('eval', 'evaluation')]
)
def test_messages_name_the_split(config, tmp_path, split, name):
    mesh = sharding.make_mesh(config.mesh)
    with pytest.raises(DataError, match=f"in split '{name}' cannot be used"):
        Evaluator(config, ['a'], zero_logits, mesh, split=split)
    evaluator = Evaluator(config, ['a', 'b'], zero_logits, mesh, split=split)
    assert evaluator.split_name == name
    assert isinstance(evaluator.source, FileSource)
    assert evaluator.source.keys == splits.open_source(config, split).keys
    for clip in evaluator.source.clips:  # the headers are read
        content = (tmp_path / clip.name).read_bytes()
        (tmp_path / clip.name).write_bytes(content[:200] + bytes(len(content) - 200))
    with pytest.raises(DataError, match=f'no clip of the {name} split can be decoded'):
        evaluator.evaluate({})


def test_skipped_clips_are_listed_by_split(tmp_path, capsys):
    workdir = Workdir(tmp_path)
    report_skipped(workdir, Progress(), {'training': [], 'validation': ['a.wav: is damaged']})
    assert '1 validation clips were skipped' in capsys.readouterr().err
    assert workdir.skipped.read_text() == 'validation: a.wav: is damaged\n'

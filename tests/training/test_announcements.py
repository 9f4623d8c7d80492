"""Test what is said about the data of a run."""

import json

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.config import loading
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.epoch_plan import Schedule
from elastic_ast_jax.training.announcements import describe_data
from elastic_ast_jax.training.training_data import open_training_data, plan_rows


class Evaluation:
    """The evaluation split, of which nothing is cropped."""

    cropped = windowed = 0

    def __init__(self, source):
        self.source = source


@pytest.fixture
def lines(tmp_path):
    """Return a function that describes the data of a config."""
    for name, numbers in (('train', range(12)), ('test', range(12, 20))):
        rows = []
        for number in numbers:
            samples = np.full(8000, number / 100)
            soundfile.write(tmp_path / f'{number}.wav', samples, 8000, subtype='FLOAT')
            row = {'audio': f'{number}.wav', 'labels': ['a' if number % 4 else 'b']}
            rows.append(json.dumps(row | {'speaker': f's{number // 5}'}))
        (tmp_path / f'{name}.jsonl').write_text('\n'.join(rows))

    def describe(data, **train) -> str:
        paths = {name: str(tmp_path / f'{name}.jsonl') for name in ('train', 'test')}
        data = {'train': paths['train'], 'eval': paths['test'], **data}
        frontend = {'sample_rate': 8000, 'mel_bins': 64, 'max_frames': 128}
        config = loading.from_dict(
            {'data': data, 'frontend': frontend, 'train': {'epochs': 1, **train}}
        )
        opened = open_training_data(config)
        evaluation = splits.open_source(config, splits.selection_split(config))
        schedule = Schedule(plan_rows(config, opened), config.packing.rows)
        return '\n'.join(describe_data(config, opened, Evaluation(evaluation), schedule))

    return describe


def test_groups_in_both_splits_are_a_warning(lines):
    text = lines({'group': 'column:speaker'})
    assert '1 group of data.group with clips in both the training and the evaluation' in text
    assert 'split: s2' in text
    assert 'data.group' not in lines({}) + lines(
        {'group': 'column:speaker', 'validation_share': 0.3}
    )


def test_a_fold_and_class_weights_are_named(lines):
    text = lines({'folds': 3, 'fold': 2}, class_weights='balanced')
    assert 'fold 2 of 3 is the evaluation split' in text
    assert '8 training clips, 4 evaluation clips' in text
    assert 'class weights in the loss: from 0.667 to 2' in text
    assert 'class weights' not in lines({}) and 'fold' not in lines({})

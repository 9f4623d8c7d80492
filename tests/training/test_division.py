"""Test that evaluation recognizes the division of the clips that training had."""

import json

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.checkpointing.workdir import PlanRecord, Workdir, WorkdirError
from elastic_ast_jax.config import loading
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.training.training_data import check_division, open_training_data

RATE = 8000
GROUPED = {'group': 'column:speaker'}
FOLD = {'folds': 2, 'fold': 1, 'eval': ''}


@pytest.fixture
def root(tmp_path):
    for number in range(13):
        soundfile.write(tmp_path / f'{number}.wav', np.full(1600, number / 100), RATE)
    return tmp_path


def write(root, clips: int, name: str = 'all.jsonl', **columns) -> str:
    """Write a manifest of the first clips, two of each speaker, and return its path."""
    lines = [
        {'audio': f'{number}.wav', 'labels': ['ab'[number % 2]], 'speaker': f's{number // 2}'}
        for number in range(clips)
    ]
    (root / name).write_text('\n'.join(json.dumps(line | columns) for line in lines))
    return str(root / name)


def run_on(path: str, **data) -> Config:
    return loading.from_dict(
        {
            'data': {'train': path, 'eval': path, **data},
            'frontend': {'sample_rate': RATE, 'mel_bins': 64, 'max_frames': 32},
        }
    )


def trained_on(config: Config, folder) -> Workdir:
    """Return a workdir with the plan of a run."""
    workdir, data = Workdir(folder), open_training_data(config)
    fingerprint = data.planner.fingerprint(data.source.fingerprint)
    workdir.set_plan(PlanRecord(fingerprint, (1,)))
    return workdir


@pytest.mark.parametrize(
    ('data', 'counts'),
    [
        (FOLD, (13, 10)),
        (GROUPED, (8,)),
        (FOLD | GROUPED | {'validation_share': 0.3}, (10, 8)),
    ],
)
def test_clips_that_were_added_or_removed_are_noticed(root, data, counts):
    config = run_on(write(root, 12), **data)
    workdir = trained_on(config, root)
    check_division(config, config, workdir)
    for clips in counts:
        write(root, clips)
        with pytest.raises(WorkdirError, match=r'changed since training, and data\.(folds|group)='):
            check_division(config, config, workdir)


def test_a_clip_that_only_evaluation_gets_is_no_problem(root):
    config = run_on(write(root, 12), **GROUPED)
    workdir, before = trained_on(config, root), open_training_data(config).source.keys
    write(root, 13)
    assert open_training_data(config).source.keys == before
    check_division(config, config, workdir)


def test_a_clip_that_training_refuses_is_noticed(root):
    config = run_on(write(root, 12), **FOLD)
    workdir = trained_on(config, root)
    soundfile.write(root / '12.wav', np.zeros(RATE), RATE)  # too long
    write(root, 13)
    with pytest.raises(WorkdirError, match='changed since training'):
        check_division(config, config, workdir)


def test_data_that_moved_and_other_batches_are_the_same(root, tmp_path_factory):
    config = run_on(write(root, 12), **FOLD)
    workdir = trained_on(config, root)
    moved = tmp_path_factory.mktemp('moved') / 'data'
    root.rename(moved)
    workdir = Workdir(moved)
    overrides = {'too_long': 'window', 'train': str(moved / 'all.jsonl')}
    check_division(config, run_on('', **(FOLD | overrides)), workdir)


@pytest.mark.parametrize(
    ('data', 'columns'),
    [
        ({}, {}),  # the hash of a path decides alone
        (GROUPED, {'split': 'train'}),  # the column decides
        (GROUPED | {'eval': '/another.jsonl'}, {}),
    ],
)
def test_a_division_that_each_clip_has_for_itself_is_not_compared(root, data, columns):
    config = run_on(write(root, 12, **columns), **data)
    workdir = trained_on(config, root)
    write(root, 13, **columns)
    check_division(config, config, workdir)


def test_a_model_without_a_plan_is_not_compared(root):
    config = run_on(write(root, 12), **FOLD)
    check_division(config, config, Workdir(root))

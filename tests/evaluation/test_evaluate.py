"""Test `elastic-ast evaluate`: the keys that it may change, and the files that it writes."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from elastic_ast_jax.config import loading, schema
from elastic_ast_jax.config.loading import ConfigError
from elastic_ast_jax.evaluation.eval_config import (
    CHANGEABLE,
    SPLIT_KEYS,
    eval_config,
    names_other_data,
)
from elastic_ast_jax.evaluation.metrics_files import summary_table, write_metrics
from elastic_ast_jax.evaluation.results import Evaluation, selection_score
from elastic_ast_jax.training.metrics import compute_metrics
from elastic_ast_jax.utils.files import WriteError


def trained(**data) -> schema.Config:
    return loading.from_dict({'data': {'train': '/a/train.jsonl', 'eval': '/a/test.jsonl'} | data})


def test_data_may_have_moved():
    config = eval_config(
        trained(), ['data.eval=/b/test.jsonl', 'data.too_long=window', 'packing.rows=16']
    )
    assert config.data.eval == '/b/test.jsonl' and config.data.train == '/a/train.jsonl'
    assert config.data.too_long == 'window' and config.packing.rows == 16
    same = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, eval='/a/test.jsonl', too_long='error'),
        packing=dataclasses.replace(config.packing, rows=8),
    )
    assert same == trained()


def test_a_manifest_that_serves_both_splits_moves_as_one():
    """Otherwise its training clips would be evaluated too."""
    config = eval_config(trained(train='/a/all.csv', eval='/a/all.csv'), ['data.eval=/b/all.csv'])
    assert config.data.train == config.data.eval == '/b/all.csv'


def test_all_clips_of_another_manifest_without_splits_are_evaluated(tmp_path):
    before = trained(train='/a/all.csv', eval='/a/all.csv')
    (tmp_path / 'whole.csv').write_text('audio,labels\na.wav,x\n')
    (tmp_path / 'divided.csv').write_text('audio,labels,split\na.wav,x,test\n')
    config = eval_config(before, [f'data.eval={tmp_path}/whole.csv'])
    assert config.data.train != config.data.eval == f'{tmp_path}/whole.csv'
    config = eval_config(before, [f'data.eval={tmp_path}/divided.csv'])
    assert config.data.train == config.data.eval == f'{tmp_path}/divided.csv'


@pytest.mark.parametrize(
    'override', ['model.depth=2', 'frontend.max_frames=2048', 'train.loss=bce', 'augment.mixup=1']
)
def test_keys_of_the_model_cannot_change(override):
    with pytest.raises(ConfigError) as error:
        eval_config(trained(), [override])
    key = override.partition('=')[0]
    assert f'{key} cannot change' in str(error.value)
    assert all(name in str(error.value) for name in CHANGEABLE)


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('data.evil=x', 'unknown key data.evil: the nearest valid one is data.eval'),
        ('data.eval', '--config.data.eval has no value'),
        ('packing.rows=many', "packing.rows='many': must be a whole number"),
        ('data.too_long=windows', "did you mean 'window'?"),
        ('packing.tokens=8', 'raise packing.tokens'),
    ],
)
def test_values_are_checked_as_in_training(override, message):
    with pytest.raises(ConfigError) as error:
        eval_config(trained(), [override])
    assert message in str(error.value)


def test_changeable_keys_exist():
    assert {
        *CHANGEABLE,
        *(f'data.{name}' for names in SPLIT_KEYS.values() for name in names),
    } <= schema.Config().flat().keys()


def test_a_key_that_the_source_does_not_read_is_refused():
    """It would be told as if it had been used."""
    with pytest.raises(
        ConfigError, match=r"data.root cannot change .*data.source='manifest'.* data.eval_split"
    ):
        eval_config(trained(), ['data.root=/elsewhere'])
    with pytest.raises(ConfigError, match=r'data.eval cannot change'):
        eval_config(loading.from_dict({'data': {'source': 'synthetic'}}), ['data.eval=/b'])


def test_other_data_need_no_training_split():
    config = eval_config(
        loading.from_dict({'data': {'source': 'synthetic'}}),
        ['data.source=folders', 'data.eval=/b'],
    )
    assert config.data.eval == '/b' != config.data.train


def test_a_run_of_a_fold_evaluates_all_other_data():
    values = {'source': 'folders', 'train': '/a', 'folds': 5, 'fold': 2, 'group': 'pattern:(.)'}
    for evaluation in ('', '/a'):
        run = loading.from_dict({'data': values | {'eval': evaluation}})
        same = eval_config(run, ['data.train=/moved'])
        assert (same.data.train, same.data.folds, same.data.fold) == ('/moved', 5, 2)
        other = eval_config(run, ['data.eval=/b'])
        assert (other.data.eval, other.data.folds, other.data.fold) == ('/b', 0, 0)
        assert other.data.train != '/b'  # so that no share is held out
        assert eval_config(run, ['data.source=tfds', 'data.tfds_name=x']).data.group == ''


@pytest.mark.parametrize(
    ('data', 'override'),
    [
        ({'train': '/a.csv', 'eval': '', 'folds': 5, 'fold': 2}, 'data.group=column:x'),
        ({'train': '/a.csv', 'eval': '', 'folds': 5, 'fold': 2}, 'data.train_split=test'),
        ({'train': '/a.csv', 'eval': '', 'folds': 5, 'fold': 2}, 'data.eval_split=train'),
        ({'train': '/a', 'eval': '/a', 'source': 'folders', 'group': 'pattern:(.)'}, 'data.group='),
        ({'train': 'all.csv', 'eval': 'all.csv', 'group': 'column:x'}, 'data.group='),
        ({'train': 'all.csv', 'eval': 'all.csv'}, 'data.eval_split=train'),
    ],
)
def test_the_clips_of_a_run_are_not_divided_in_another_way(data, override, tmp_path, monkeypatch):
    """Otherwise clips that were trained on would be evaluated."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'all.csv').write_text('audio,labels,x\na.wav,x,1\n')
    (tmp_path / 'splits.csv').write_text('audio,labels,split\na.wav,x,test\n')
    run = trained(**data)
    with pytest.raises(ConfigError, match='would divide the clips in another way than training'):
        eval_config(run, [override])
    key, _, value = override.partition('=')
    config = eval_config(run, [override, 'data.eval=/b.jsonl'])
    assert config.flat()[key] == value and config.data.folds == 0
    assert eval_config(run, [f'{key}={run.flat()[key]}']).data.fold == run.data.fold
    assert names_other_data(run, ['data.eval=/b']) and not names_other_data(run, [override])


def test_a_side_of_a_manifest_with_splits_and_a_group_of_other_data_may_change(tmp_path):
    (tmp_path / 'splits.csv').write_text('audio,labels,split\na.wav,x,test\n')
    path = f'{tmp_path}/splits.csv'
    run = trained(train=path, eval=path)
    assert eval_config(run, ['data.eval_split=other']).data.eval_split == 'other'
    assert eval_config(trained(group='column:x'), ['data.group=']).data.group == ''


def test_naming_the_same_source_does_not_leave_the_fold():
    """Otherwise a share of the folder would be evaluated, most of which was trained on."""
    values = {'source': 'folders', 'train': '/a', 'eval': '/a', 'folds': 5, 'fold': 2}
    run = trained(**values, fold_seed=3, group='pattern:(.)')
    assert eval_config(run, ['data.source=folders']).data == run.data
    other = eval_config(run, ['data.source=tfds', 'data.tfds_name=x']).data
    assert (other.folds, other.fold, other.fold_seed, other.group) == (0, 0, 0, '')


def test_files_describe_the_evaluation(tmp_path):
    metrics = compute_metrics(
        np.array([[1.0, 0.0], [1.0, 0.0]], np.float32), [(0,), (1,)], ('a|b', 'c')
    )
    evaluation = Evaluation(metrics, 3, 4, ('x.wav: damaged',))
    json_file, table_file = write_metrics(
        evaluation, 'mean of steps 20, 30', 30, ('data.eval=y',), tmp_path / 'eval'
    )
    values = json.loads(json_file.read_text('utf-8'))
    assert (
        values['checkpoint'] == 'mean of steps 20, 30'
        and values['step'] == 30
        and values['overrides'] == ['data.eval=y']
    )
    assert (values['clips'], values['cropped_clips'], values['windowed_clips']) == (2, 3, 4)
    assert values['skipped'] == ['x.wav: damaged']
    table = table_file.read_text('utf-8')
    assert '| mean of steps 20, 30 | 2 | 50.00 % |' in table
    assert 'only the beginning was evaluated: 3.' in table and 'logits were averaged: 4.' in table
    assert '- x.wav: damaged' in table and 'were skipped: 1.' in table
    assert '| a\\|b | 1 | 100.00 % |' in table and '| c | 1 | 0.00 % |' in table


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='sizes are limited as Linux does')
def test_a_full_disk_leaves_the_results_before(tmp_path, little_room):
    (tmp_path / 'metrics.json').write_text('older')
    metrics = compute_metrics(np.array([[1.0, 0.0]], np.float32), [(0,)], ('a', 'b'))
    with (
        little_room(100),
        pytest.raises(WriteError, match=f'^{tmp_path}/metrics.json: cannot be written .*make room'),
    ):
        write_metrics(Evaluation(metrics, 0, 0, ()), 'step 30', 30, (), tmp_path)
    assert (tmp_path / 'metrics.json').read_text() == 'older'
    assert [path.name for path in tmp_path.iterdir()] == ['metrics.json']


def test_undefined_metrics_are_dashes_and_null(tmp_path):
    metrics = compute_metrics(np.array([[1.0, 0.0]], np.float32), [(0,)], ('a', 'b'))
    json_file, table_file = write_metrics(
        Evaluation(metrics, 0, 0, ()), 'step 30', 30, (), tmp_path
    )
    assert json.loads(json_file.read_text('utf-8'))['mean_average_precision'] is None
    assert '| b | 0 | – | – | – | – |' in table_file.read_text('utf-8')
    assert '| 1 | 100.00 % | – | – | – |' in summary_table(metrics, 'step 30')


def test_the_loss_decides_the_selection_metric():
    metrics = compute_metrics(
        np.array([[0.9, 0.2], [0.8, 0.1], [0.1, 0.3]], np.float32), [(0,), (1,), (1,)], ('a', 'b')
    )
    assert metrics.accuracy != metrics.mean_average_precision
    assert selection_score(trained(), metrics) == metrics.accuracy
    assert (
        selection_score(dataclasses.replace(trained(), train=schema.Train(loss='bce')), metrics)
        == metrics.mean_average_precision
    )


def test_the_file_keeps_its_keys(tmp_path):
    """Check that files of any version have the same keys, whatever fields are called."""
    metrics = compute_metrics(np.array([[1.0, 0.0]], np.float32), [(0,)], ('a', 'b'))
    json_file, _ = write_metrics(Evaluation(metrics, 0, 0, ()), 'step 30', 30, (), tmp_path)
    values = json.loads(json_file.read_text('utf-8'))
    assert list(values) == [
        'checkpoint',
        'step',
        'overrides',
        'cropped_clips',
        'windowed_clips',
        'skipped',
        'clips',
        'accuracy',
        'first_label_accuracy',
        'mean_average_precision',
        'auc',
        'd_prime',
        'classes_without',
        'classes',
    ]
    assert list(values['classes'][0]) == [
        'label',
        'clips',
        'accuracy',
        'average_precision',
        'auc',
        'd_prime',
    ]

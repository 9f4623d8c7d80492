"""Test a workdir and its small files: any other content is refused with the reason and a remedy."""

import dataclasses
import json
import os
import shutil

import pytest

from elastic_ast_jax.audio.fbank import Fingerprint
from elastic_ast_jax.checkpointing.workdir import ModelMetadata, PlanRecord, Workdir, WorkdirError
from elastic_ast_jax.config.schema import Config, Data

CONFIG = Config(data=Data(source='synthetic'))
FRONTEND = Fingerprint('0123456789abcdef', (-0.5, 0.25, -0.75, 0.125))
METADATA = ModelMetadata(('cat', 'dog', 'owl'), FRONTEND)


def changed(**sections):
    """Return `CONFIG` with these values of these sections."""
    return dataclasses.replace(
        CONFIG,
        **{
            name: dataclasses.replace(getattr(CONFIG, name), **values)
            for name, values in sections.items()
        },
    )


@pytest.fixture
def workdir(tmp_path):
    created = Workdir(tmp_path / 'run')
    created.prepare(CONFIG)
    created.set_model_metadata(METADATA)
    created.set_plan(PlanRecord('fedcba9876543210', (10, 11)))
    (created.checkpoints / '5').mkdir(parents=True)
    return created


def refused(call, *arguments):
    with pytest.raises(WorkdirError) as caught:
        call(*arguments)
    return str(caught.value)


def test_stored_values_are_read_back(workdir):
    reopened = Workdir(workdir.path)
    assert reopened.config() == CONFIG
    assert reopened.model_metadata() == METADATA
    assert reopened.plan() == PlanRecord('fedcba9876543210', (10, 11))
    assert sorted(os.listdir(workdir.path)) == [
        'checkpoints',
        'config.json',
        'model.json',
        'plan.json',
    ]  # and nothing besides


def test_a_new_run_has_no_plan(tmp_path):
    workdir = Workdir(tmp_path / 'a' / 'b')
    workdir.prepare(CONFIG)
    assert workdir.plan() is None


def test_empty_folder_is_a_new_workdir(tmp_path):
    Workdir(tmp_path).prepare(CONFIG)
    assert Workdir(tmp_path).config() == CONFIG


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = Workdir('run')
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    workdir.prepare(CONFIG)
    assert (tmp_path / 'run' / 'config.json').exists()


# The same run


def test_run_resumes_with_the_same_config(workdir):
    workdir.prepare(CONFIG)
    workdir.set_model_metadata(METADATA)
    assert workdir.config() == CONFIG


def test_another_config_is_refused_with_keys_and_both_values(workdir):
    message = refused(workdir.prepare, changed(train={'epochs': 7}, augment={'ratios': (1.0, 2.0)}))
    assert str(workdir.path) in message and 'Use another --workdir' in message
    assert 'train.epochs: 40 stored, 7 now' in message
    assert 'augment.ratios: (1.0,) stored, (1.0, 2.0) now' in message
    assert message.count('stored,') == 2
    assert workdir.config() == CONFIG  # untouched


def test_keys_that_change_no_result_may_differ(workdir):
    free = changed(
        data={
            'root': '/moved',
            'train': 'b.jsonl',
            'eval': 'c.jsonl',
            'label_csv': 'd.csv',
            'tfds_dir': 'e',
            'num_workers': 3,
            'on_bad_audio': 'skip',
        },
        train={
            'log_every': 1,
            'max_checkpoints': 9,
            'save_every': 5,
            'wandb': 'project',
            'profile_steps': 3,
            'compare_baseline': True,
        },
    )
    workdir.prepare(free)
    assert workdir.config() == free  # the resumed run uses the new values
    assert 'data.num_workers' not in refused(
        workdir.prepare, changed(data={'num_workers': 4}, train={'seed': 1})
    )


def test_further_keys_can_be_compared(workdir):
    moved = changed(data={'root': '/moved', 'num_workers': 3})
    workdir.check_config(moved)
    message = refused(
        lambda config: workdir.check_config(config, ('data.root',), 'Give another --out'), moved
    )
    assert "data.root: '' stored, '/moved' now" in message and 'data.num_workers' not in message
    assert message.endswith('Give another --out, or the same values')


@pytest.mark.parametrize(
    'key',
    [
        key
        for key in CONFIG.flat()
        if key
        not in (
            'init.from',
            'data.root',
            'data.train',
            'data.eval',
            'data.label_csv',
            'data.tfds_dir',
            'data.on_bad_audio',
            'data.num_workers',
            'train.log_every',
            'train.max_checkpoints',
            'train.save_every',
            'train.wandb',
            'train.profile_steps',
            'train.compare_baseline',
            'mesh.data',
            'mesh.fsdp',
            'mesh.tensor',
        )
    ],
)
def test_all_other_keys_must_be_equal(workdir, key):
    section, name = key.split('.')
    value = CONFIG.flat()[key]
    other_value = (
        not value
        if isinstance(value, bool)
        else value + 1
        if isinstance(value, (int, float))
        else value * 2 + value[:1]
    )
    other_value = {'': 'x', (): ('x',)}.get(value, other_value)
    assert f'{key}: {value!r} stored, {other_value!r} now' in refused(
        workdir.prepare, changed(**{section: {name: other_value}})
    )


def test_config_may_change_before_the_first_checkpoint(workdir):
    """A start that failed, for a wrong name or a damaged recording, does not bind the next one."""
    shutil.rmtree(workdir.checkpoints)
    (workdir.checkpoints / '5.orbax-checkpoint-tmp').mkdir(parents=True)  # unfinished
    assert not workdir.has_checkpoint()
    other_config = changed(train={'epochs': 7})
    workdir.prepare(other_config)
    workdir.set_model_metadata(ModelMetadata(('cat', 'owl'), FRONTEND))
    assert workdir.config() == other_config and workdir.model_metadata().labels == ('cat', 'owl')


# Places that will not do


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / 'file').write_text('x')
    for path in (tmp_path / 'file', tmp_path / 'file' / 'run'):
        message = refused(Workdir(path).prepare, CONFIG)
        assert (
            message.startswith(f'{path}: cannot be written (')
            and 'choose another --workdir' in message
        )


@pytest.mark.skipif(os.geteuid() == 0, reason='permissions do not hold for root')
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    for path in (tmp_path, tmp_path / 'run'):
        assert 'cannot be written (Permission denied)' in refused(Workdir(path).prepare, CONFIG)


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    assert 'holds other files and no config.json; choose a new or empty --workdir' in refused(
        Workdir(tmp_path).prepare, CONFIG
    )
    assert os.listdir(tmp_path) == ['thesis.tex']


# Files that will not do


@pytest.mark.parametrize('read', ['config', 'model_metadata'])
def test_missing_workdir_is_an_error_with_a_similar_name(workdir, read):
    misspelled = workdir.path.with_name('rnu')
    message = refused(getattr(Workdir(misspelled), read))
    assert message == f'{misspelled}: there is no such workdir; did you mean {workdir.path}?'
    assert refused(getattr(Workdir(workdir.path / 'xyz' / 'quite'), read)).endswith(
        'there is no such workdir'
    )


def test_folder_without_config_is_not_a_workdir(tmp_path):
    message = refused(Workdir(tmp_path).config)
    assert (
        message.startswith(f'{tmp_path}: is not a workdir of `elastic-ast train`')
        and 'config.json is missing' in message
    )


def test_a_missing_file_is_named(workdir):
    (workdir.path / 'model.json').unlink()
    assert 'model.json is missing' in refused(workdir.model_metadata)


@pytest.mark.parametrize(
    'name, read',
    [('config.json', 'config'), ('model.json', 'model_metadata'), ('plan.json', 'plan')],
)
@pytest.mark.parametrize(
    'text, part',
    [
        ('', 'cannot be read'),
        ('{"da', 'cannot be read'),
        ('[1, 2]', 'must hold a JSON object'),
        ('3', 'must hold a JSON object'),
    ],
)
def test_a_broken_file_is_named_with_a_way_out(workdir, name, read, text, part):
    (workdir.path / name).write_text(text)
    message = refused(getattr(workdir, read))
    assert (
        message.startswith(f'{workdir.path / name}: {part}')
        and 'restore it or train again' in message
    )


def test_a_file_that_is_not_text_is_named(workdir):
    (workdir.path / 'model.json').write_bytes(b'\xff\xfe\x00')
    assert f'{workdir.path / "model.json"}: cannot be read' in refused(workdir.model_metadata)


@pytest.mark.parametrize(
    'name, read, key',
    [
        ('model.json', 'model_metadata', 'labels'),
        ('model.json', 'model_metadata', 'frontend'),
        ('plan.json', 'plan', 'fingerprint'),
        ('plan.json', 'plan', 'epoch_rows'),
    ],
)
def test_an_entry_that_is_missing_is_named(workdir, name, read, key):
    values = json.loads((workdir.path / name).read_text())
    del values[key]
    (workdir.path / name).write_text(json.dumps(values))
    assert f'{workdir.path / name}: has no entry {key!r}' in refused(getattr(workdir, read))


@pytest.mark.parametrize(
    'name, read, key, value',
    [
        ('model.json', 'model_metadata', 'labels', 3),
        ('model.json', 'model_metadata', 'labels', 'cat'),
        ('model.json', 'model_metadata', 'labels', [1, 2]),
        ('model.json', 'model_metadata', 'frontend', 3),
        ('model.json', 'model_metadata', 'frontend', {'spec': 'x'}),
        ('model.json', 'model_metadata', 'frontend', {'spec': 3, 'golden': [0.5]}),
        ('model.json', 'model_metadata', 'frontend', {'spec': 'x', 'golden': ['y']}),
        ('plan.json', 'plan', 'epoch_rows', 3),
        ('plan.json', 'plan', 'epoch_rows', ['x']),
        ('plan.json', 'plan', 'fingerprint', None),
    ],
)
def test_an_entry_of_a_wrong_type_is_named(workdir, name, read, key, value):
    values = json.loads((workdir.path / name).read_text()) | {key: value}
    (workdir.path / name).write_text(json.dumps(values))
    message = refused(getattr(workdir, read))
    assert message.startswith(f'{workdir.path / name}: ') and key in message


def test_a_foreign_config_is_refused_with_its_file(workdir):
    file = workdir.path / 'config.json'
    values = json.loads(file.read_text())
    values['train']['epohcs'] = 3
    file.write_text(json.dumps(values))
    message = refused(workdir.config)
    assert (
        message.startswith(f'{file}: ')
        and 'unknown key train.epohcs: the nearest valid one is train.epochs' in message
    )
    file.write_text('{"scripts": {"test": "jest"}}')
    assert 'unknown key scripts.test' in refused(workdir.config)
    assert 'unknown key scripts.test' in refused(workdir.prepare, CONFIG)


def test_a_run_of_version_1_resumes_with_todays_keys(workdir):
    file = workdir.path / 'config.json'
    values = json.loads(file.read_text())
    del values['version']
    values['optimizer']['rate'] = values['optimizer'].pop('learning_rate')
    values['train']['keep'] = values['train'].pop('max_checkpoints')
    file.write_text(json.dumps(values))
    assert workdir.config() == CONFIG
    message = refused(workdir.prepare, changed(optimizer={'learning_rate': 0.5}))
    assert 'optimizer.learning_rate: 0.001 stored, 0.5 now' in message
    workdir.prepare(CONFIG)
    assert json.loads(file.read_text())['version'] == 2 and workdir.config() == CONFIG


# What a model's numbers mean


@pytest.mark.parametrize(
    'fingerprint, part',
    [
        (
            Fingerprint('fedcba9876543210', FRONTEND.golden),
            'frontend section of config.json was changed: restore it',
        ),
        (
            Fingerprint(FRONTEND.spec, (-0.5, 0.25, -0.75, 0.13)),
            'use the version of elastic-ast-jax that trained it',
        ),
        (
            Fingerprint(FRONTEND.spec, FRONTEND.golden[:2]),
            'use the version of elastic-ast-jax that trained it',
        ),
    ],
    ids=['another spec', 'other features', 'fewer features'],
)
def test_another_frontend_is_refused(workdir, fingerprint, part):
    for call, argument in (
        (workdir.check_frontend, fingerprint),
        (workdir.set_model_metadata, dataclasses.replace(METADATA, frontend=fingerprint)),
    ):
        message = refused(call, argument)
        assert message.startswith(f'{workdir.path}: ') and part in message
        assert fingerprint.spec in message and FRONTEND.spec in message
    assert workdir.model_metadata() == METADATA


def test_frontend_may_differ_by_rounding(workdir):
    workdir.check_frontend(
        Fingerprint(FRONTEND.spec, tuple(value + 1e-4 for value in FRONTEND.golden))
    )


def test_other_labels_are_refused(workdir):
    message = refused(
        workdir.set_model_metadata, dataclasses.replace(METADATA, labels=('ant', 'cat', 'dog'))
    )
    assert "missing ['owl'], new ['ant']" in message and 'use another --workdir' in message
    assert workdir.model_metadata() == METADATA

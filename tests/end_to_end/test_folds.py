"""Test the evaluation of a fold: its clips, its files, and what is refused."""

import json
import pathlib
import shutil

import pytest


@pytest.fixture(scope='module')
def fold_run(recordings, arguments, tmp_path_factory):
    """Return a manifest with one damaged recording, the workdir of a fold of it, and its log."""
    from elastic_ast_jax.cli.main import main

    folder = tmp_path_factory.mktemp('fold')
    (folder / 'broken.wav').write_bytes(b'RIFF')
    lines = [line | {'audio': str(recordings.folder / line['audio'])} for line in recordings.train]
    lines.append({'audio': 'broken.wav', 'labels': ['low']})
    (folder / 'all.jsonl').write_text('\n'.join(map(json.dumps, lines)), encoding='utf-8')
    options = [
        'data.eval=',
        f'data.train={folder}/all.jsonl',
        'data.folds=3',
        'data.fold=1',
        'data.on_bad_audio=skip',
        'train.epochs=1',
    ]
    assert main(arguments(folder / 'run', *options)) == 0
    return folder


@pytest.fixture
def fold(fold_run, tmp_path) -> pathlib.Path:
    """Return the workdir of a copy of the run, beside its manifest."""
    shutil.copytree(fold_run, tmp_path / 'fold')
    return tmp_path / 'fold' / 'run'


def test_files_of_an_earlier_evaluation_do_not_stay(fold, command, recordings):
    here = f'--config.data.train={fold.parent}/all.jsonl'
    other = f'--config.data.eval={recordings.folder}/test.jsonl'
    evaluate = ('evaluate', f'--workdir={fold}')
    assert command(*evaluate, other, '--predictions', '--curves').code == 0
    files = [fold / 'eval' / name for name in ('predictions.csv', 'curves.csv')]
    assert all(file.exists() for file in files)
    assert command(*evaluate, here).code == 0
    assert not any(file.exists() for file in files)
    values = json.loads((fold / 'eval' / 'metrics.json').read_text('utf-8'))
    assert len(values['skipped']) == 1 and 'broken.wav' in values['skipped'][0]
    assert values['clips'] == 20


def test_a_skipped_clip_is_reported_once_in_training(fold):
    lines = (fold / 'skipped.txt').read_text('utf-8').splitlines()
    assert len(lines) == 1 and lines[0].startswith('training: ') and 'broken.wav' in lines[0]


def test_changed_data_and_another_division_are_refused(fold, command, recordings):
    manifest = fold.parent / 'all.jsonl'
    evaluate = ('evaluate', f'--workdir={fold}', f'--config.data.train={manifest}')
    refused = command(*evaluate, '--config.data.group=pattern:(.)[.]')
    assert refused.code == 1 and 'would divide the clips in another way' in refused.err
    extra = {'audio': recordings.test_files[0], 'labels': ['low']}
    with open(manifest, 'a', encoding='utf-8') as stream:
        stream.write('\n' + json.dumps(extra))
    refused = command(*evaluate)
    assert refused.code == 1, refused.out
    assert 'changed since training, and data.folds=3 divides them by all clips' in refused.err
    assert not (fold / 'eval').exists()
    other = f'--config.data.eval={recordings.folder}/test.jsonl'
    assert command('evaluate', f'--workdir={fold}', other).code == 0

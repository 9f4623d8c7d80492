"""Test errors of the input: they name the file or the key and what to do, and exit with 1."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import soundfile

RATE, STEPS = 8000, 21


@pytest.fixture
def data(recordings, tmp_path) -> pathlib.Path:
    """Return a folder that a test may damage: some clips of `recordings`, and their manifests."""
    folder = tmp_path / 'data'
    folder.mkdir()
    for split, lines in (('train', recordings.train[6:12]), ('test', recordings.test[:3])):
        shutil.copytree(recordings.folder / split, folder / split)
        write_manifest(folder / f'{split}.jsonl', lines)
    return folder


def write_manifest(file: pathlib.Path, lines: list) -> None:
    text = [
        line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines
    ]
    file.write_text('\n'.join(text) + '\n', encoding='utf-8')


def read_manifest(file: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text('utf-8').splitlines()]


@pytest.fixture
def refused(command):
    """Return `refused(arguments, *parts)`: the command exits with 1, and its error has all parts.

    A part is a text or a regular expression.
    """

    def check(arguments, *parts) -> str:
        result = command(*arguments)
        assert result.code == 1, result
        assert 'Traceback' not in result.err
        assert f'elastic-ast {arguments[0]}: ' in result.err
        for part in parts:
            if isinstance(part, re.Pattern):
                assert part.search(result.err), f'{part.pattern!r} is not in: {result.err}'
            else:
                assert str(part) in result.err, f'{part!r} is not in: {result.err}'
        return result.err

    return check


@pytest.fixture
def train_refused(refused, recordings, data, tmp_path):
    """Return a function like `refused`, for training on `data`."""

    def check(overrides, *parts) -> str:
        files = [
            f'--config.data.train={data / "train.jsonl"}',
            f'--config.data.eval={data / "test.jsonl"}',
        ]
        more = [f'--config.{override}' for override in overrides]
        return refused(
            [
                'train',
                f'--config={recordings.config}',
                f'--workdir={tmp_path / "run"}',
                *files,
                *more,
            ],
            *parts,
        )

    return check


# Recordings that cannot be used. All but two are reported before anything is decoded.


def missing(path):
    path.unlink()


def folder(path):
    path.unlink()
    path.mkdir()


def empty(path):
    path.write_bytes(b'')


def text(path):
    path.write_text('This is a text.')


def no_samples(path):
    soundfile.write(path, np.zeros(0, np.float32), RATE)


def truncated(path):
    path.write_bytes(path.read_bytes()[:1000])


def with_sample(value):
    def spoil(path):
        samples, _ = soundfile.read(path, dtype='float32')
        samples[800] = value
        soundfile.write(path, samples, RATE, subtype='FLOAT')

    return spoil


DAMAGES = {
    'missing': (missing, 'no such file', 'check the path'),
    'a folder': (folder, 'is a folder, not a recording', 'pass the files in it'),
    'empty': (empty, 'the file is empty (0 bytes)', 'get it again or skip it'),
    'text': (text, 'libsndfile cannot read it', 'convert it to WAV or FLAC'),
    'no samples': (no_samples, 'holds no samples', 'get it again or skip it'),
    'truncated': (truncated, 'the file is truncated', 'get it again'),
    'NaN': (
        with_sample(np.nan),
        'sample 800 (at 0.100 s) is NaN or infinite',
        'repair the recording or skip it',
    ),
    'infinite': (
        with_sample(np.inf),
        'sample 800 (at 0.100 s) is NaN or infinite',
        'repair the recording or skip it',
    ),
}


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize('kind', DAMAGES)
def test_a_recording_that_cannot_be_used(kind, split, data, recordings, train_refused):
    spoil, problem, remedy = DAMAGES[kind]
    name = read_manifest(data / f'{split}.jsonl')[2]['audio']
    spoil(data / name)
    # Evaluation comes after an epoch. The clips of the other tests need no compilation.
    overrides = [f'data.train={recordings.folder / "train.jsonl"}'] if split == 'test' else []
    train_refused(overrides, data / name, problem, remedy)


def test_all_recordings_that_cannot_be_used_are_reported_at_once(data, train_refused):
    lines = read_manifest(data / 'train.jsonl')
    for (spoil, *_), line in zip(DAMAGES.values(), lines[:4], strict=False):
        spoil(data / line['audio'])
    output = train_refused([], '4 problems in 6 clips')
    for number, line in enumerate(lines[:4], 1):
        assert f'train.jsonl line {number}' in output and line['audio'] in output


# Manifests that cannot be used.


@pytest.mark.parametrize(
    ('line', 'parts'),
    [
        (
            '{"audio": "train/06.wav", "labels": ["low"]',
            ['line 3', 'is not JSON', '{"audio": "a.wav", "labels": ["dog"]}'],
        ),
        (
            {'audio': 'train/06.wav', 'lables': ['low']},
            ['line 3', "unknown key 'lables'", "'labels'", 'labels is missing'],
        ),
        (
            {'audio': 'train/08.wav', 'labels': []},
            ['line 3', 'no label', 'give it one', 'train.loss=bce'],
        ),
        (
            {'audio': 'train/06.wav', 'labels': ['low'], 'start': '1'},
            ['line 3', "start='1' must be a number of seconds"],
        ),
        (
            {'audio': 'train/07.wav', 'labels': ['low'], 'start': 5},
            ['line 3', 'start=5', 'past the end of the recording'],
        ),
        (
            {'audio': 'train/08.wav', 'labels': ['low'], 'end': 9},
            ['line 3', 'end=9', 'past the end of the recording', 'omit it'],
        ),
        (
            {'audio': 'train/07.wav', 'labels': ['low']},
            ['line 3', 'the same samples are listed before', 'line 2', 'keep one'],
        ),
        (
            {'audio': './train/../train/07.wav', 'labels': ['low']},
            ['line 3', 'listed before, in train.jsonl line 2'],
        ),
    ],
    ids=[
        'no JSON',
        'unknown key',
        'no label',
        'start is text',
        'start past end',
        'end past end',
        'twice',
        'twice, hidden',
    ],
)
def test_a_line_that_cannot_be_used(line, parts, data, train_refused):
    lines = read_manifest(data / 'train.jsonl')
    write_manifest(data / 'train.jsonl', [*lines[:2], line, *lines[3:]])
    train_refused([], 'train.jsonl', *parts)


def test_the_same_part_twice(data, train_refused):
    lines = read_manifest(data / 'train.jsonl')
    part = {'audio': 'train/parts.flac', 'start': 0.5, 'end': 1.0, 'labels': ['low']}
    # Other parts of the recording are other clips; the same part under another label is not.
    lines[:3] = part, part | {'start': 0.0}, part | {'labels': ['middle']}
    write_manifest(data / 'train.jsonl', lines)
    train_refused(
        [],
        'line 3 (train/parts.flac[0.5:1.0])',
        'the same samples are listed before, in train.jsonl line 1',
    )


@pytest.mark.parametrize('content', ['', '\n\n'])
def test_an_empty_manifest(content, data, train_refused):
    (data / 'train.jsonl').write_text(content)
    train_refused([], data / 'train.jsonl', 'the manifest lists no clips', 'write one a line')


def test_a_missing_manifest(data, train_refused):
    (data / 'test.jsonl').unlink()
    train_refused([], data / 'test.jsonl', 'no such manifest', 'check the path')


def test_a_label_that_training_does_not_have(data, train_refused):
    lines = read_manifest(data / 'test.jsonl')
    lines[1]['labels'] = ['midle']
    write_manifest(data / 'test.jsonl', lines)
    train_refused(
        [], 'test.jsonl line 2', "unknown label 'midle'", "the nearest known one is 'middle'"
    )


def test_a_label_that_training_does_not_have_in_evaluation(workdir, data, refused):
    """The manifest was changed after training."""
    lines = read_manifest(data / 'test.jsonl')
    lines[2]['labels'] = ['high']
    write_manifest(data / 'test.jsonl', lines)
    change_config(workdir, data={'eval': str(data / 'test.jsonl')})
    refused(
        ['evaluate', f'--workdir={workdir}'],
        'test.jsonl line 3',
        "unknown label 'high'",
        'nearest known one',
    )


@pytest.mark.parametrize('split', ['train', 'test'])
def test_several_labels_with_one_label_loss(split, data, train_refused, tmp_path):
    lines = read_manifest(data / f'{split}.jsonl')
    lines[0]['labels'] = ['low', 'middle']
    write_manifest(data / f'{split}.jsonl', lines)
    train_refused(
        [],
        f'{split}.jsonl line 1 ({lines[0]["audio"]}): has 2 labels (low, middle)',
        '--config.train.loss=bce',
    )
    assert not (tmp_path / 'run' / 'metrics.jsonl').exists()  # before the first step


def test_weights_and_data_that_are_not_there_are_named_before_any_is_read(data, train_refused):
    (data / 'train.jsonl').write_text('no manifest')
    train_refused(['init.from=nowhere.pth'], 'nowhere.pth: there is no such file or folder')
    (data / 'test.jsonl').unlink()
    train_refused([], 'test.jsonl: no such manifest: check the path, which is data.eval')


def test_a_clip_longer_than_the_positions(data, train_refused):
    long = data / 'train' / '07.wav'
    soundfile.write(long, np.zeros(2 * RATE), RATE)
    train_refused(
        [],
        'train/07.wav',
        '198 frames (2.00 s)',
        'raise frontend.max_frames to 200',
        "data.too_long='crop'",
    )


# Configs that cannot be used.


@pytest.mark.parametrize(
    ('override', 'parts'),
    [
        ('train.epoch=3', ['unknown key train.epoch', 'train.epochs']),
        (
            'optimiser.learning_rate=3',
            ['unknown key optimiser.learning_rate', 'optimizer.learning_rate'],
        ),
        ('train.epochs=many', ["train.epochs='many'", 'must be a whole number']),
        ('train.epochs=1.5', ["train.epochs='1.5'", 'must be a whole number']),
        ('model.scan=1', ["model.scan='1'", 'must be true or false']),
        ('train.epochs', ['train.epochs has no value', '--config.train.epochs=VALUE']),
        ('model.attention=blockd', ["model.attention='blockd'", "'blocked'"]),
        (
            'packing.tokens=32',
            [
                'frontend.max_frames=100 needs 2*25=50 tokens',
                'packing.tokens=32',
                'raise packing.tokens',
            ],
        ),
        ('model.heads=3', ['model.width=16', '3 heads', 'model.heads']),
    ],
)
def test_a_config_that_cannot_be_used(override, parts, train_refused):
    train_refused([override], *parts)


def test_all_problems_of_a_config_at_once(train_refused, tmp_path):
    wrong = (
        'train.epoch=3',
        'train.epochs=many',
        'optimizer.learning_rate=-1',
        'packing.rows=0',
        'model.size=XS',
    )
    output = train_refused(wrong, '5 problems in the configuration')
    for part in (
        'train.epoch:',
        "train.epochs='many'",
        'optimizer.learning_rate=-1.0',
        'packing.rows=0',
        "model.size='XS'",
    ):
        assert part in output
    assert not (tmp_path / 'run').exists()


def config_file(folder: pathlib.Path, code: str) -> list[str]:
    file = folder / 'mine.py'
    file.write_text(code)
    return ['train', f'--config={file}', f'--workdir={folder / "run"}']


def test_an_unknown_key_in_the_file(refused, tmp_path):
    code = (
        'from ml_collections import ConfigDict\ndef get_config():\n  return'
        ' ConfigDict(dict(train=dict(epoch=3)))\n'
    )
    refused(config_file(tmp_path, code), 'unknown key train.epoch', 'train.epochs')


@pytest.mark.parametrize(
    ('code', 'part'),
    [
        ('def get_config(:\n', 'line 1'),
        ('def get_config():\n  return undefined\n', 'mine.py line 2 fails: NameError'),
        ('import nothing_of_this_name\n', 'nothing_of_this_name'),
        ('def get_config():\n  return 3\n', 'get_config'),
        ('CONFIG = 3\n', 'get_config'),
        ('def get_config():\n  return {"train": {"epochs": 3}}\n', 'get_config'),
    ],
    ids=['syntax', 'name', 'import', 'a number', 'nothing', 'a dictionary'],
)
def test_a_file_that_is_no_config(code, part, refused, tmp_path):
    refused(config_file(tmp_path, code), tmp_path / 'mine.py', part)


def test_an_argument_for_a_config_that_takes_none(refused, recordings, tmp_path):
    refused(
        ['train', f'--config={recordings.config}:large', f'--workdir={tmp_path / "run"}'],
        recordings.config,
        'large',
    )


def test_a_missing_config_file(refused, tmp_path):
    refused(
        ['train', f'--config={tmp_path / "mine.py"}', f'--workdir={tmp_path / "run"}'],
        tmp_path / 'mine.py',
        'no file',
    )


# Workdirs that cannot be used.


def change_config(workdir: pathlib.Path, **sections: dict) -> None:
    values = json.loads((workdir / 'config.json').read_text('utf-8'))
    for section, entries in sections.items():
        values[section] |= entries
    (workdir / 'config.json').write_text(json.dumps(values), encoding='utf-8')


def test_the_workdir_of_another_config(workdir, arguments, refused):
    before = (workdir / 'config.json').read_bytes()
    output = refused(
        arguments(workdir, 'optimizer.learning_rate=0.5', 'train.epochs=7', 'data.num_workers=1'),
        workdir,
    )
    assert (
        'optimizer.learning_rate: 0.01 stored, 0.5 now' in output
        and 'train.epochs: 3 stored, 7 now' in output
    )
    assert 'workers' not in output
    assert 'Use another --workdir, or the same values' in output
    assert (workdir / 'config.json').read_bytes() == before


def test_the_workdir_of_other_data(workdir, arguments, data, refused):
    """The labels are the same, so the plan shows the difference."""
    write_manifest(data / 'train.jsonl', read_manifest(data / 'train.jsonl')[::-1])
    changed = 'the training data, or the way clips are drawn from them, changed'
    refused(
        arguments(workdir, f'data.train={data / "train.jsonl"}'),
        workdir,
        changed,
        'restore the data',
    )


def test_the_workdir_of_other_labels(workdir, arguments, data, refused):
    lines = read_manifest(data / 'train.jsonl')
    lines[0]['labels'] = ['hum']
    write_manifest(data / 'train.jsonl', lines)
    refused(
        arguments(workdir, f'data.train={data / "train.jsonl"}'),
        workdir,
        "new ['hum']",
        'use another --workdir',
    )


def test_a_folder_with_other_files(tmp_path, arguments, refused):
    (tmp_path / 'thesis.txt').write_text('my only copy')
    refused(arguments(tmp_path), tmp_path, 'holds other files', 'choose a new or empty --workdir')
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


def test_a_workdir_that_cannot_be_written(tmp_path, arguments, refused):
    # Not even root can write to a path below a regular file.
    (tmp_path / 'file').write_text('')
    refused(
        arguments(tmp_path / 'file' / 'run'),
        tmp_path / 'file' / 'run',
        'cannot be written',
        'choose another --workdir',
    )


def test_evaluation_in_a_workdir_that_cannot_be_written(workdir, refused):
    (workdir / 'eval').write_text('in the way')
    refused(['evaluate', f'--workdir={workdir}'], workdir / 'eval', 'cannot be written')


def test_synthesized_clips_in_a_folder_that_cannot_be_written(tmp_path, refused):
    (tmp_path / 'file').write_text('')
    config = pathlib.Path(__file__).parents[2] / 'configs' / 'quickstart.py'
    refused(
        ['synthesize', tmp_path / 'file' / 'clips', f'--config={config}'],
        tmp_path / 'file' / 'clips',
        'cannot be written',
    )


def no_checkpoints(workdir: pathlib.Path) -> None:
    for checkpoint in (workdir / 'checkpoints').iterdir():
        shutil.rmtree(checkpoint)


UNREADABLE = {
    'missing': (lambda w: shutil.rmtree(w), ['there is no such workdir']),
    'no config': (
        lambda w: (w / 'config.json').unlink(),
        ['is not a workdir of `elastic-ast train`', 'config.json is missing'],
    ),
    'broken config': (
        lambda w: (w / 'config.json').write_text('{"data": '),
        ['config.json', 'cannot be read', 'train again'],
    ),
    'a list': (
        lambda w: (w / 'config.json').write_text('[]'),
        ['config.json', 'must hold a JSON object', 'train again'],
    ),
    'unknown key': (
        lambda w: change_config(w, model={'color': 'red'}),
        ['config.json', 'unknown key model.color'],
    ),
    'no labels': (lambda w: (w / 'model.json').unlink(), ['model.json is missing']),
    'half a model': (
        lambda w: (w / 'model.json').write_text('{"labels": ["low"]}'),
        ['model.json', "has no entry 'frontend'"],
    ),
    'wrong types': (
        lambda w: (w / 'model.json').write_text('{"labels": 3, "frontend": 4}'),
        ['model.json', 'restore it'],
    ),
    'no folder of checkpoints': (
        lambda w: shutil.rmtree(w / 'checkpoints'),
        ['checkpoints', 'no complete checkpoint'],
    ),
    'no checkpoints': (no_checkpoints, ['checkpoints', 'no complete checkpoint']),
    'other frontend': (
        lambda w: change_config(w, frontend={'shift_ms': 12.5}),
        ['frontend', 'restore', 'config.json'],
    ),
    'other model': (
        lambda w: change_config(w, model={'width': 32}),
        ['checkpoints', 'damaged or of another model'],
    ),
}


@pytest.mark.parametrize('command_name', ['predict', 'evaluate'])
@pytest.mark.parametrize('kind', UNREADABLE)
def test_a_workdir_that_cannot_be_read(kind, command_name, workdir, recordings, refused):
    spoil, parts = UNREADABLE[kind]
    spoil(workdir)
    arguments = {
        'predict': ['predict', workdir, recordings.test_files[0]],
        'evaluate': ['evaluate', f'--workdir={workdir}'],
    }
    output = refused(arguments[command_name], workdir, *parts)
    assert len(output) < 3000  # a person can read that


def test_a_misspelled_workdir_gets_a_suggestion(workdir, recordings, refused):
    refused(
        ['predict', f'{workdir}s', recordings.test_files[0]],
        f'{workdir}s',
        f'did you mean {workdir}?',
    )


def empty_files(checkpoint):
    for path in checkpoint.rglob('*'):
        if path.is_file():
            path.write_bytes(b'')


def half_files(checkpoint):
    for path in (checkpoint / 'params' / 'd').iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_params(checkpoint):
    shutil.rmtree(checkpoint / 'params')


def no_files(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


@pytest.mark.parametrize('spoil', [empty_files, half_files, no_params, no_files])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    spoil, workdir, recordings, command, caplog
):
    file = recordings.test_files[0]
    expected = command('predict', workdir, file, '--json', '--checkpoint=18').out
    spoil(workdir / 'checkpoints' / str(STEPS))
    result = command('predict', workdir, file, '--json')
    assert (result.code, result.out) == (0, expected)
    messages = [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith('elastic_ast_jax')
    ]
    expected = f'checkpoint {workdir}/checkpoints/{STEPS} is incomplete, using the one before, 18'
    assert any(expected in message for message in messages)
    assert max(map(len, messages)) < 1000  # a person can read that


def test_a_damaged_checkpoint_that_is_named_is_refused(workdir, recordings, refused):
    empty_files(workdir / 'checkpoints' / '18')
    refused(
        ['predict', workdir, recordings.test_files[0], '--checkpoint=18'],
        workdir / 'checkpoints',
        '18: ',
        'damaged',
    )


def test_a_process_prints_nothing_but_the_error(workdir, recordings, python):
    """Threads and finalizers of libraries print only when a process ends."""
    change_config(workdir, model={'width': 32})
    main = 'import sys; from elastic_ast_jax.cli.main import main; sys.exit(main(sys.argv[1:]))'
    result = python(main, 'predict', workdir, recordings.test_files[0])
    assert result.code == 1
    assert 'damaged or of another model' in result.err
    assert 'Traceback' not in result.err


def test_no_checkpoint_that_can_be_read(workdir, recordings, arguments, refused):
    for checkpoint in (workdir / 'checkpoints').iterdir():
        empty_files(checkpoint)
    refused(
        ['predict', workdir, recordings.test_files[0]],
        workdir / 'checkpoints',
        'no checkpoint can be read',
    )
    refused(
        arguments(workdir),
        workdir / 'checkpoints',
        'no checkpoint can be read',
        'train again in another --workdir',
    )


# Command lines that cannot be used.


@pytest.mark.parametrize(
    ('arguments', 'part'),
    [
        ([], 'COMMAND'),
        (['trian'], "invalid choice: 'trian'"),
        (['train', '--config=configs/fsdd.py'], '--workdir'),
        (
            ['train', '--config=configs/fsdd.py', '--workdir=run', '--epochs=3'],
            'unrecognized arguments: --epochs=3',
        ),
        (['predict', 'run', 'a.wav', '--top_k=0'], "'0' is no positive whole number"),
        (
            ['predict', 'run', 'a.wav', '--config.train.epochs=3'],
            'unrecognized arguments: --config.train.epochs=3',
        ),
    ],
)
def test_wrong_usage(arguments, part, command):
    result = command(*arguments)
    assert result.code == 2
    assert part in result.err

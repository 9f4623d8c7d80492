"""The command line: help that comes at once, exit codes, and errors without a traceback."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.cli.main import main
from elastic_ast_jax.config.loading import load
from elastic_ast_jax.data import splits

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / 'configs' / 'quickstart.py')
COMMANDS = (
    'train',
    'evaluate',
    'predict',
    'embed',
    'plan',
    'stats',
    'synthesize',
    'convert',
    'compare',
    'parity',
)
FEW = ('--config.data.synthetic_train=64', '--config.data.synthetic_eval=40')


def ended(*arguments):
    """The exit code of arguments that are not accepted, or ask for help."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


# Help


def test_help_names_every_command(capsys):
    assert ended('--help') == 0
    assert set(COMMANDS) <= {
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()
    }


@pytest.mark.parametrize(
    'command, options',
    [
        ('train', ['--config FILE', '--workdir', '--config.section.key=value']),
        ('evaluate', ['--workdir', '--checkpoint', 'latest', 'best']),
        ('predict', ['workdir', 'INPUT', '--top_k', '--json', '--checkpoint']),
        ('plan', ['--config FILE', '--config.section.key=value']),
        ('synthesize', ['folder', '--config FILE', '--clips', '--config.section.key=value']),
    ],
)
def test_every_command_explains_itself(capsys, command, options):
    assert ended(command, '--help') == 0
    text = ' '.join(capsys.readouterr().out.split())
    assert f'usage: elastic-ast {command}' in text
    assert all(option in text for option in options)


def test_help_comes_at_once_without_what_computes():
    program = (
        'import sys\nfrom elastic_ast_jax.cli.main import main\ntry:\n    main(["--help"])\n'
        'finally:\n  '
        '  print("loaded", *sorted({"jax", "tensorflow", "numpy", "ml_collections"} &'
        ' set(sys.modules)))'
    )
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    seconds = []
    for _ in range(3):  # the machine may be busy with something else for once
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, '-c', program],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
        )
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0 and 'usage: elastic-ast' in done.stdout
        assert done.stdout.splitlines()[-1] == 'loaded'
    assert min(seconds) < 1


@pytest.mark.parametrize(
    'module, command',
    [('elastic_ast_jax', command) for command in COMMANDS] + [('elastic_ast_jax.train', 'train')],
)
@pytest.mark.filterwarnings('ignore:.*found in sys.modules after import of package')
def test_the_package_is_a_program_too_and_so_is_training(module, command, capsys, monkeypatch):
    words = [] if module.endswith('.train') else [command]
    monkeypatch.setattr(sys, 'argv', ['program', *words, '--help'])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(module, run_name='__main__')
    assert caught.value.code == 0
    assert f'usage: elastic-ast {command}' in capsys.readouterr().out


# Arguments that are not accepted


@pytest.mark.parametrize(
    'arguments, part',
    [
        ([], 'COMMAND'),
        (['tran'], "'tran'"),
        (['plan'], '--config'),
        (['plan', f'--config={QUICKSTART}', '--bogus'], 'unrecognized arguments: --bogus'),
        (
            ['plan', f'--config={QUICKSTART}', '--configs.train.seed=1'],
            'unrecognized arguments: --configs.train.seed=1',
        ),
        (['plan', f'--config={QUICKSTART}', 'extra'], 'unrecognized arguments: extra'),
        (
            ['plan', f'--config={QUICKSTART}', '--config.train.seed', '1'],
            'unrecognized arguments: 1',
        ),
        (['train', f'--config={QUICKSTART}'], '--workdir'),
        (
            ['predict', 'run', 'a.wav', '--config.train.seed=1'],
            'unrecognized arguments: --config.train.seed=1',
        ),
        (['predict', 'run', 'a.wav', '--window=0'], "'0'"),
        (
            ['predict', 'gs://b/run', 'gs://b/a.wav'],
            "'gs://b/a.wav' must be a local path: only a workdir may be in a bucket",
        ),
        (['embed', 'run', 'a.wav', '--out=gs://b/a.npz'], "'gs://b/a.npz' must be a local path"),
        (['predict', 'run', 'a.wav', '--window=1,2'], "'1,2' must be a positive number of seconds"),
        (['predict', 'run', 'a.wav', '--overlap=1'], "'1' must be a number from 0 to below 1"),
        (['evaluate', '--workdir=run', '--sweep=size'], "invalid choice: 'size'"),
        (
            ['evaluate', '--workdir=run', '--sweep=length', '--points=1,x'],
            "'1,x' must be positive numbers separated by commas",
        ),
        (['embed', 'run', 'a.wav'], '--out'),
        (['embed', 'run', '', '--out=a.npz'], 'a path is missing'),
        (['predict', 'run', 'a.wav', '--windw=3'], 'usage: elastic-ast predict'),
        (['predict', 'run', 'a.wav', '--window=nan'], "'nan' must be a positive number of seconds"),
        (['predict', 'run'], 'INPUT'),
        (['predict', 'run', 'a.wav', '--top_k=0'], "'0' is no positive whole number"),
        (['predict', 'run', 'a.wav', '--top_k=-1'], "'-1' is no positive whole number"),
        (['predict', 'run', 'a.wav', '--top_k=many'], "'many' is no positive whole number"),
        (
            ['synthesize', 'out', f'--config={QUICKSTART}', '--clips=1.5'],
            "'1.5' is no positive whole number",
        ),
    ],
    ids=lambda value: ' '.join(value)[:40] if isinstance(value, list) else '',
)
def test_arguments_that_are_not_accepted_end_with_2_and_are_named(capsys, arguments, part):
    assert ended(*arguments) == 2
    written = capsys.readouterr()
    assert part in written.err and written.out == '' and 'Traceback' not in written.err


# Errors that a user can mend


@pytest.mark.parametrize(
    'arguments, parts',
    [
        (['plan', '--config=nowhere.py'], ['there is no file nowhere.py']),
        (
            ['plan', f'--config={QUICKSTART}', '--config.train.epoch=3', '--config.train.seed=x'],
            [
                '2 problems',
                'train.epoch: the nearest valid one is train.epochs',
                "train.seed='x': must be a whole number",
            ],
        ),
        (
            ['plan', f'--config={QUICKSTART}', '--config.frontend.max_frames=512'],
            ['longer than frontend.max_frames=512'],
        ),
        (
            [
                'plan',
                f'--config={QUICKSTART}',
                '--config.data.source=fsdd',
                '--config.data.root=/nowhere',
            ],
            ['/nowhere'],
        ),
        (
            [
                'plan',
                f'--config={QUICKSTART}',
                '--config.data.source=manifest',
                '--config.data.train=no.jsonl',
                '--config.data.eval=no.jsonl',
            ],
            ['no.jsonl'],
        ),
        (
            ['train', f'--config={QUICKSTART}', '--config.train.epochs=0', '--workdir=run'],
            ['train.epochs=0'],
        ),
        (['predict', 'nowhere', 'a.wav'], ['nowhere: there is no such workdir']),
        (
            [
                'synthesize',
                'out',
                f'--config={QUICKSTART}',
                '--config.data.source=fsdd',
                '--config.data.root=x',
            ],
            ["data.source='fsdd'", 'synthetic'],
        ),
        (
            [
                'synthesize',
                'out',
                f'--config={QUICKSTART}',
                '--config.data.synthetic_eval=3',
                '--clips=4',
            ],
            ['--clips=4 must be from 1 to data.synthetic_eval=3'],
        ),
    ],
    ids=lambda value: ' '.join(value)[:60].replace(str(ROOT), '') if value[0] in COMMANDS else '',
)
def test_errors_end_with_1_and_a_message_alone(capsys, tmp_path, monkeypatch, arguments, parts):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    written = capsys.readouterr()
    assert written.err.startswith(f'elastic-ast {arguments[0]}: ') and written.out == ''
    assert 'Traceback' not in written.err and all(part in written.err for part in parts)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    'override',
    [
        'frontend.sample_rate=4000',
        f'train.seed={10**30}',
        'optimizer.learning_rate=1e999',
        'optimizer.decay_factor=-1',
        'frontend.mean=-1e999',
        'frontend.window_ms=1e999',
        'augment.ratios=1e999',
        'train.seed={[]: 1}',
        'model.heads=5',
    ],
)
def test_a_value_that_cannot_be_used_is_an_error_that_names_its_key(capsys, override):
    assert main(['plan', f'--config={QUICKSTART}', f'--config.{override}', *FEW]) == 1
    assert override.partition('=')[0] in capsys.readouterr().err


def test_an_argument_for_a_config_without_one_is_an_error_that_tells(capsys):
    assert main(['plan', f'--config={QUICKSTART}:large']) == 1
    assert 'large' in capsys.readouterr().err


# What runs


def test_overrides_reach_the_config(capsys):
    assert main(['plan', f'--config={QUICKSTART}', *FEW]) == 0
    written = capsys.readouterr()
    assert (
        'train: 64 clips' in written.out and 'eval: 40 clips' in written.out and written.err == ''
    )


def test_synthesize_writes_clips_from_the_shortest_to_the_longest_that_a_manifest_lists(
    tmp_path, capsys
):
    out = tmp_path / 'a' / 'b'
    assert main(['synthesize', str(out), f'--config={QUICKSTART}', *FEW, '--clips=5']) == 0
    source = splits.open_source(
        load(QUICKSTART, [override.removeprefix('--config.') for override in FEW]), 'eval'
    )
    lines = [json.loads(line) for line in (out / 'manifest.jsonl').read_text().splitlines()]
    assert len(lines) == 5 and sorted(os.listdir(out)) == sorted(
        [line['audio'] for line in lines] + ['manifest.jsonl']
    )
    lengths = []
    for line in lines:
        samples, rate = soundfile.read(out / line['audio'], dtype='float32')
        assert rate == 8000
        lengths.append(len(samples))
        (clip,) = np.flatnonzero(source.samples == len(samples))
        assert line['labels'] == list(source.labels[clip])
        np.testing.assert_allclose(samples, source.read(int(clip)), rtol=0, atol=1 / 32768)
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (source.samples.min(), source.samples.max())
    assert '5 clips' in capsys.readouterr().out
    manifest = str(out / 'manifest.jsonl')
    assert (
        main(
            [
                'plan',
                f'--config={ROOT / "configs" / "manifest.py"}',
                f'--config.data.train={manifest}',
                f'--config.data.eval={manifest}',
            ]
        )
        == 0
    )


def test_a_reader_that_has_enough_ends_the_command_quietly(tmp_path):
    """`elastic-ast plan ... | head -1`"""
    command = f'{sys.executable} -m elastic_ast_jax plan --config={QUICKSTART}; echo "code $?" >&2'
    done = subprocess.run(
        ['bash', '-c', f'({command}) | true'], capture_output=True, text=True, timeout=120
    )
    assert 'Traceback' not in done.stderr and 'cannot be written' not in done.stderr

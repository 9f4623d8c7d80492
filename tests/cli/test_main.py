"""Test the command line: help, exit codes, and errors without a traceback."""

import argparse
import dataclasses
import importlib
import json
import os
import pkgutil
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastic_ast_jax import cli
from elastic_ast_jax.audio import oddities
from elastic_ast_jax.cli.main import COMMANDS, main, make_parser
from elastic_ast_jax.config.loading import load
from elastic_ast_jax.data import splits

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / 'configs' / 'quickstart.py')
FEW = ('--config.data.synthetic_train=64', '--config.data.synthetic_eval=40')


def exit_code(*arguments: str) -> int:
    """Return the exit code of arguments that are not accepted, or that ask for help."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    code = exit_info.value.code
    assert isinstance(code, int)
    return code


def run_python(program: str) -> tuple[subprocess.CompletedProcess, float]:
    """Run a program in a new process; return it and the seconds that it took."""
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, '-c', program],
        capture_output=True,
        text=True,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        timeout=60,
    )
    return process, time.perf_counter() - start


def command_parsers(
    parser: argparse.ArgumentParser, options: type | None = None
) -> Iterator[tuple[argparse.ArgumentParser, type | None]]:
    """Yield the parsers of a parser's commands, and of their commands, with their `Options`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                command_options = command.get_default('options') or options
                yield command, command_options
                yield from command_parsers(command, command_options)


# Commands


def test_main_lists_the_command_modules_of_the_package():
    modules = {
        name: importlib.import_module(f'elastic_ast_jax.cli.{name}')
        for _, name, _ in pkgutil.iter_modules(cli.__path__)
    }
    commands = {name for name, module in modules.items() if hasattr(module, 'add_arguments')}
    # Commands of a command: `elastic-ast convert KIND` and `elastic-ast experiment NAME`.
    nested = {name for name in commands if name.startswith(('convert_', 'fetch_'))} | {'small_data'}
    assert commands - nested == set(COMMANDS)
    assert modules.keys() - commands == {'main', 'commands', 'hints', 'output', 'types'}


def test_each_argument_is_a_field_of_the_options():
    checked = 0
    for parser, options in command_parsers(make_parser()):
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
                continue
            argument = f'{parser.prog}: {action.dest}'
            assert options is not None, argument
            fields = {field.name: field for field in dataclasses.fields(options)}
            assert action.dest in fields, argument
            assert action.default == argparse.SUPPRESS, argument
            has_default = fields[action.dest].default is not dataclasses.MISSING
            assert has_default or action.required, argument
            checked += 1
    assert checked > 100


# Help


def test_help_names_every_command(capsys):
    assert exit_code('--help') == 0
    words = capsys.readouterr().out.split()
    assert set(COMMANDS) <= set(words)


@pytest.mark.parametrize(
    'command, options',
    [
        ('train', ['--config FILE', '--workdir', '--config.section.key=value']),
        ('evaluate', ['--workdir', '--checkpoint', 'latest', 'best']),
        ('predict', ['workdir', 'INPUT', '--top_k', '--json', '--checkpoint']),
        ('plan', ['--config FILE', '--config.section.key=value']),
        ('synthesize', ['folder', '--config FILE', '--clips', '--config.section.key=value']),
        ('sweep', ['--config=FILE', '--out=FOLDER', '-- PROGRAM']),
        ('experiment length', ['CONFIG', '--seeds', '--config.section.key=value']),
        ('experiment amazon_queen', ['FOLDER', 'PACKAGE.deb', 'License']),
        ('experiment fetch_small_data', ['FOLDER', '--tasks', 'Licenses']),
        ('experiment small_data', ['FOLDER', '--fsdd', '--minutes', '--config.section.key=value']),
    ],
)
def test_help_of_a_command_shows_its_options(capsys, command, options):
    assert exit_code(*command.split(), '--help') == 0
    text = ' '.join(capsys.readouterr().out.split())
    assert f'usage: elastic-ast {command}' in text
    assert all(option in text for option in options)


@pytest.mark.parametrize('command', ['', *COMMANDS])
def test_help_imports_only_the_module_of_the_command(command):
    program = (
        'import sys\nfrom elastic_ast_jax.cli.main import COMMANDS, main\n'
        f'try:\n    main({[*command.split(), "--help"]})\n'
        'finally:\n'
        '    slow = {"jax", "tensorflow", "numpy", "ml_collections"} & set(sys.modules)\n'
        '    modules = {f"elastic_ast_jax.cli.{name}": name for name in COMMANDS}\n'
        '    commands = [name for module, name in modules.items() if module in sys.modules]\n'
        '    print("imported", *slow, *commands)'
    )
    process, _ = run_python(program)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(f'usage: elastic-ast {command}'.strip())
    assert process.stdout.splitlines()[-1] == f'imported {command}'.strip()


def test_help_answers_within_half_a_second():
    program = 'from elastic_ast_jax.cli.main import main\nmain(["--help"])'
    # The machine may be busy for a moment.
    assert min(run_python(program)[1] for _ in range(3)) < 0.5


@pytest.mark.parametrize('command', COMMANDS)
def test_the_package_is_the_program_too(command, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['program', command, '--help'])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_module('elastic_ast_jax', run_name='__main__')
    assert exit_info.value.code == 0
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
        (['embed', 'run', 'a.wav', '--out=gs://b/a.npz'], "'gs://b/a.npz' must be a local path"),
        (['configure', 'a', '--out=b', '--minutes=0'], "'0' must be a positive number of minutes"),
        (['configure', 'a', '--out=b', '--minutes=inf'], 'at most 10080 (a week)'),
        (['predict', 'run', 'a.wav', '--window=1,2'], "'1,2' must be a positive number of seconds"),
        (['predict', 'run', 'a.wav', '--overlap=1'], "'1' must be a number from 0 to below 1"),
        (['evaluate', '--workdir=run', '--sweep=size'], "invalid choice: 'size'"),
        (
            ['evaluate', '--workdir=run', '--sweep=length', '--points=1,x'],
            "'1,x' must be positive numbers separated by commas",
        ),
        (['sweep', f'--config={QUICKSTART}'], '--config=FILE and --out=FOLDER are needed'),
        (['sweep', f'--config={QUICKSTART}', '--out=a', '--'], 'the program is missing after --'),
        (['sweep', f'--config={QUICKSTART}', '--out=a', '--dry'], 'unrecognized arguments: --dry'),
        (['sweep', f'--config={QUICKSTART}', '--out=a', 'b', '--', 'c'], 'arguments: b'),
        (['plan', f'--config={QUICKSTART}', '--utilization=0.5'], 'name them with --topology'),
        (['parity', 'run'], 'recordings are missing'),
        (['convert', 'onnx'], "'onnx'"),
        (['prepare', 'esc50', '--out=a'], 'usage: elastic-ast prepare esc50'),
        (['experiment', 'width', 'a.py'], "'width'"),
        (['embed', 'run', 'a.wav'], '--out'),
        (['embed', 'run', '', '--out=a.npz'], 'a path is missing'),
        (['predict', 'run', 'a.wav', '--windw=3'], 'usage: elastic-ast predict'),
        (['predict', 'run', 'a.wav', '--window=nan'], "'nan' must be a positive number of seconds"),
        (['predict', 'run'], 'INPUT'),
        (['predict', 'run', 'a.wav', '--top=0'], "argument --top_k: '0'"),
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
def test_an_unaccepted_argument_is_named_and_exits_with_2(capsys, arguments, part):
    assert exit_code(*arguments) == 2
    output = capsys.readouterr()
    assert part in output.err and output.out == '' and 'Traceback' not in output.err


# Errors that the user can mend


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
def test_an_error_prints_a_message_alone_and_exits_with_1(
    capsys, tmp_path, monkeypatch, arguments, parts
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.err.startswith(f'elastic-ast {arguments[0]}: ') and output.out == ''
    assert 'Traceback' not in output.err and all(part in output.err for part in parts)
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
def test_the_error_of_an_unusable_value_names_its_key(capsys, override):
    assert main(['plan', f'--config={QUICKSTART}', f'--config.{override}', *FEW]) == 1
    assert override.partition('=')[0] in capsys.readouterr().err


def test_the_error_of_an_argument_names_it_if_the_config_takes_none(capsys):
    assert main(['plan', f'--config={QUICKSTART}:large']) == 1
    assert 'large' in capsys.readouterr().err


# Commands that succeed


def test_overrides_reach_the_config(capsys):
    assert main(['plan', f'--config={QUICKSTART}', *FEW]) == 0
    output = capsys.readouterr()
    assert 'train: 64 clips' in output.out and 'eval: 40 clips' in output.out and output.err == ''


def test_synthesize_writes_clips_of_all_lengths_and_a_manifest(tmp_path, capsys):
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
        (clip,) = np.flatnonzero(source.samples == len(samples)).tolist()
        assert line['labels'] == list(source.labels[clip])
        np.testing.assert_allclose(samples, source.read(clip), rtol=0, atol=1 / 32768)
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
                '--config.data.eval_share=0.5',
            ]
        )
        == 0
    )


def test_a_closed_pipe_ends_the_command_quietly():
    """`elastic-ast plan ... | head -1`."""
    command = f'{sys.executable} -m elastic_ast_jax plan --config={QUICKSTART}; echo "code $?" >&2'
    process = subprocess.run(
        ['bash', '-c', f'({command}) | true'], capture_output=True, text=True, timeout=120
    )
    assert 'Traceback' not in process.stderr and 'cannot be written' not in process.stderr


def test_odd_recordings_are_summed_up_at_the_end_of_a_command(tmp_path, caplog):
    oddities.log_summary()
    for name in ('a.wav', 'b.wav'):
        oddities.report(name, 'is odd')
    assert main(['plan', f'--config={tmp_path}/missing.py']) == 1
    assert caplog.messages[-1] == '2 recordings: is odd (a.wav, b.wav)'

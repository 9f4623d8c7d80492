"""Run the command line: parse it, run one command, and turn errors into exit codes.

The module of a command is imported when the command runs or shows its help.
"""

import argparse
import dataclasses
import importlib
import logging
import os
import sys
import traceback
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from elastic_ast_jax.audio import oddities
from elastic_ast_jax.cli.commands import UsageError, add_command
from elastic_ast_jax.cli.hints import hints
from elastic_ast_jax.distributed import early_failures
from elastic_ast_jax.utils import gcs
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.failure_hooks import run_failure_hooks
from elastic_ast_jax.utils.interrupts import (
    INTERRUPTED,
    interrupts_arrive,
    interrupts_end_imports,
)
from elastic_ast_jax.utils.progress import Progress

__all__ = ['COMMANDS', 'main', 'make_parser']

# Each command is the module of its name in this room.
COMMANDS: Mapping[str, str] = types.MappingProxyType(
    {
        'configure': 'write a config for a folder or a list of recordings',
        'train': 'train a model, or resume its training',
        'probe': 'fit classifiers to a frozen encoder, without training',
        'pretrain': 'train an encoder on synthesized sounds, and write it to a file',
        'evaluate': 'evaluate a trained model on its evaluation split',
        'compare': 'compare runs in a table, or models over a sweep, each by several runs',
        'predict': 'classify recordings with a trained model',
        'embed': 'write embeddings of recordings to an .npz file',
        'prepare': 'write a data set, or the recordings of a manifest, to files with random access',
        'plan': 'show how the data fill their batches and what training costs; decode no audio',
        'baseline': 'evaluate logistic regression on statistics of log-mels, to compare',
        'stats': 'measure mean and deviation of the log-mel of the training split',
        'convert': 'convert weights of other programs to a workdir, or back',
        'parity': 'compare with the PyTorch originals, or clips alone with clips in batches',
        'benchmark': 'measure the training and the prediction step on the present devices',
        'compile': 'compile the steps for absent TPUs, and show what they need',
        'synthesize': 'write clips of the embedded data set as WAV files',
        'sweep': 'train what the sweep() of a config file yields, locally or on SLURM',
        'experiment': 'train, evaluate and draw an experiment of the paper',
    }
)

# Commands that several processes run together.
DISTRIBUTED = frozenset({'train', 'evaluate', 'pretrain'})
# The exit code of a shell for a program that a closed pipe ended.
_BROKEN_PIPE = 141
# `EX_SOFTWARE` of sysexits.h; 1 is for what the user can mend.
_CRASHED = 70


class _Invocation(NamedTuple):
    """A command with its options."""

    run: Callable[[Any], int | None]
    options: Any


class _LevelAndMessage(logging.Formatter):
    """Format records as `warning: ...`, as the commands write warnings."""

    def format(self, record: logging.LogRecord) -> str:
        return f'{record.levelname.lower()}: {record.getMessage()}'


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    An error that the user can mend is printed without a traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    failure = ''
    try:
        code, failure = _run(words)
    except SystemExit as end:  # of argparse
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        _end_others(words, 'its command line is refused', code)
        raise
    _end_others(words, failure, code)
    return code


def make_parser(names: Collection[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the program.

    Args:
        names: The commands whose modules are imported. The others have no arguments.
    """
    parser = argparse.ArgumentParser(
        prog='elastic-ast',
        description='Audio classification of clips of any length. Each command has its own --help.',
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    for name, summary in COMMANDS.items():
        add_command(commands, name, summary, _load(name) if name in names else None)
    return parser


def _end_others(words: Sequence[str], failure: str, code: int) -> None:
    """End the other processes of a run if this one failed, and this one without a wait for them."""
    if code and _command_name(words) in DISTRIBUTED:
        early_failures.announce(failure, code)
    run_failure_hooks(code)


def _run(words: list[str]) -> tuple[int, str]:
    """Run a command; return its exit code and what the other processes must know of a failure."""
    _configure_logging()
    name = _command_name(words)
    try:
        with interrupts_end_imports(), interrupts_arrive():
            run, options = _parse(words, name)
            try:
                return run(options) or 0, ''
            finally:
                oddities.log_summary()
    except UserError as error:
        # File names in the message may contain control characters; Progress escapes them.
        Progress().write_line(f'elastic-ast {name}: {error}')
        return error.exit_code, str(error)
    except BrokenPipeError:  # the reader of the output closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE, 'the reader of its output is gone'
    except OSError as error:  # such as a read-only folder or a full disk
        file, reason = error.filename or 'the output', error.strerror or error
        failure = f'{file}: cannot be written or read ({reason})'
        print(f'elastic-ast {name}: {failure}', file=sys.stderr)
        return gcs.exit_code(error), failure
    except KeyboardInterrupt:
        return INTERRUPTED, ''
    except Exception as error:  # a defect, or the loss of another process; launchers restart
        traceback.print_exc()
        return _CRASHED, f'{type(error).__name__}: {error}'


def _configure_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_LevelAndMessage())
    logging.basicConfig(handlers=[handler])
    # Orbax logs through absl. It warns of directories that are opened for reading only, and logs
    # the traceback of what it raises.
    logging.getLogger('absl').addFilter(lambda record: record.levelno > logging.ERROR)
    # Of a save that fails in several parts, Orbax raises the first error. Later, perhaps at the
    # end of the program, asyncio logs that nobody asked for the others.
    logging.getLogger('asyncio').addFilter(
        lambda record: 'exception was never retrieved' not in record.getMessage()
    )


def _command_name(words: Sequence[str]) -> str:
    """Return the word that names the command, or an empty text."""
    return next((word for word in words if not word.startswith('-')), '')


def _load(name: str) -> Any:
    """Import the module of a command."""
    return importlib.import_module(f'elastic_ast_jax.cli.{name}')


def _parse(words: list[str], name: str) -> _Invocation:
    """Parse the words; exit with 2 and the usage of the command if they are not accepted."""
    program: tuple[str, ...] | None = None
    if name in COMMANDS and '--' in words and _takes_program(_load(name)):
        end = words.index('--')
        words, program = words[:end], tuple(words[end + 1 :])
    namespace, unparsed = make_parser([name]).parse_known_args(words)
    values = vars(namespace)
    parser, options_type = values['parser'], values['options']
    fields = {field.name for field in dataclasses.fields(options_type)}
    overrides = [word for word in unparsed if word.startswith('--config.')]
    unknown = [word for word in unparsed if not word.startswith('--config.')]
    if unknown or (overrides and 'overrides' not in fields):
        refused = unknown or overrides
        parser.error(f'unrecognized arguments: {" ".join(refused)}{hints(words, refused, parser)}')
    if overrides:
        values['overrides'] = tuple(word.removeprefix('--config.') for word in overrides)
    if program is not None:
        values['program'] = program
    try:
        options = options_type(**{key: values[key] for key in fields if key in values})
    except UsageError as error:
        parser.error(str(error))
    return _Invocation(values['run'], options)


def _takes_program(command: Any) -> bool:
    """Return whether the words after `--` are a program that the command starts."""
    return 'program' in getattr(getattr(command, 'Options', None), '__dataclass_fields__', ())

"""Declare what a command is, and the options that several commands share.

A command is a module of this room with three parts:

- `Options`, a frozen dataclass. Its fields are the arguments, its defaults those of the command
  line. `overrides` receives each `--config.section.key=value` without `--config.`, and `program`
  the words after `--`. Its `__post_init__` may raise `UsageError`.
- `add_arguments(parser)` declares the arguments. An absent one has the default of its field.
- `run(options)` runs the command and returns its exit code, or None for 0. Slow modules are
  imported here, so that `--help` answers at once.

A module without `Options` and `run` adds commands of its own to its parser.
"""

import argparse
import dataclasses
from typing import Any

from elastic_ast_jax.cli.types import local_path, path

__all__ = [
    'Commands',
    'ConfigOptions',
    'UsageError',
    'add_checkpoint',
    'add_command',
    'add_config',
    'add_data',
    'add_inputs',
    'describe',
    'load_config',
]

Commands = Any  # the result of `ArgumentParser.add_subparsers`, whose class is private


class UsageError(Exception):
    """Arguments that do not go together. The usage of the command is shown with it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigOptions:
    """Options of a command that loads a config.

    Attributes:
        config: The config file, `FILE` or `FILE:ARG`.
        overrides: `section.key=value` each.
    """

    config: str
    overrides: tuple[str, ...] = ()


def add_command(
    commands: Commands, name: str, summary: str, module: Any = None
) -> argparse.ArgumentParser:
    """Add a command to the commands of a parser, and return its parser.

    Args:
        commands: The result of `add_subparsers`.
        name: The name of the command.
        summary: What it does, in a line.
        module: The module that declares it. None declares no arguments.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=f'{summary[0].upper()}{summary[1:]}.',
        argument_default=argparse.SUPPRESS,
    )
    parser.set_defaults(parser=parser)  # so that an error shows the usage of this command
    if module is not None:
        module.add_arguments(parser)
        if hasattr(module, 'run'):
            parser.set_defaults(options=module.Options, run=module.run)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, and say that any key can be overridden."""
    parser.add_argument(
        '--config',
        required=True,
        metavar='FILE[:ARG]',
        help='a config file, such as configs/fsdd.py',
    )
    describe(parser, 'Any key of the config can be overridden: --config.section.key=value.')


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add `--checkpoint`."""
    parser.add_argument('--checkpoint', help='latest (default), best, a step, average or average:N')


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the data set of a command that makes its own config, and how it is divided."""
    parser.add_argument(
        'data',
        type=local_path,
        metavar='DATA',
        help='a folder with a folder of recordings for each class, or a manifest',
    )
    parser.add_argument(
        '--eval',
        type=local_path,
        metavar='DATA',
        help='the same for evaluation (default: a fifth of DATA is held out, or what its column'
        ' split says)',
    )
    parser.add_argument(
        '--group',
        metavar='GROUP',
        help='which recordings belong together, column:NAME or pattern:REGEX; see data.group',
    )
    parser.add_argument(
        '--skip_bad_audio', action='store_true', help='skip recordings that cannot be used'
    )


def add_inputs(parser: argparse.ArgumentParser, nargs: str = '+') -> None:
    """Add the recordings that a command reads."""
    parser.add_argument(
        'inputs',
        nargs=nargs,
        type=path,
        metavar='INPUT',
        help='a recording, or a folder of recordings',
    )


def describe(parser: argparse.ArgumentParser, text: str) -> None:
    """Add sentences to the description of a command."""
    parser.description = f'{parser.description} {text}'


def load_config(options: ConfigOptions, *, complete: bool = True):
    """Load the config of a command; see `loading.load`."""
    from elastic_ast_jax.config import loading

    return loading.absolute_paths(
        loading.load(options.config, options.overrides, complete=complete)
    )

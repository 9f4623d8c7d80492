"""`elastic-ast experiment fetch_small_data`: fetch tasks of a few hundred recordings each."""

import argparse
import dataclasses
from pathlib import Path

from elastic_ast_jax.cli.commands import UsageError, describe
from elastic_ast_jax.cli.types import comma_separated_names, local_path
from elastic_ast_jax.experiments.small_data.tasks import TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The folder, and the tasks to fetch; none for all."""

    folder: str
    tasks: tuple[str, ...] = ()

    def __post_init__(self):
        if unknown := [name for name in self.tasks if name not in TASKS]:
            raise UsageError(f'--tasks has no {", ".join(unknown)}: there are {", ".join(TASKS)}')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    describe(
        parser,
        f'{len(TASKS)} tasks: real recordings inside packages of Debian, npm and PyPI, which'
        ' apt-get download, npm pack and pip download fetch (1.1 GB). Nothing is installed or run.'
        ' It writes FOLDER/TASK/manifest.csv (audio, label, group), the recordings, the licenses'
        ' and packages.json for each task, and prints a table. Finished tasks are only printed;'
        ' interrupted commands resume. A package file in FOLDER/downloads is used as it is.',
    )
    parser.epilog = (
        'Licenses: those of the packages, from GPL-2.0-only to CC-BY-3.0, see FOLDER/TASK/licenses.'
        ' A task whose package manager is missing is skipped with its reason, and the exit code'
        ' is 1.'
    )
    parser.add_argument('folder', type=local_path, metavar='FOLDER', help='folder that is written')
    parser.add_argument(
        '--tasks',
        type=comma_separated_names,
        metavar='TASK,TASK,...',
        help=f'fetch these only (default: {", ".join(TASKS)})',
    )


def run(options: Options) -> None:
    """Fetch and print; see `small_data.fetch.fetch`."""
    from elastic_ast_jax.experiments.small_data.fetch import fetch

    fetch(Path(options.folder), options.tasks)

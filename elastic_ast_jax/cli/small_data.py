"""`elastic-ast experiment small_data`: compare models with baselines on the small-data tasks."""

import argparse
import dataclasses
from pathlib import Path

from elastic_ast_jax.cli.commands import UsageError, describe
from elastic_ast_jax.cli.types import comma_separated_names, local_path, minutes, positive_int
from elastic_ast_jax.experiments.small_data.study_tasks import DIGITS, DIGITS_BY_SPEAKER, NAMES
from elastic_ast_jax.experiments.small_data.tasks import TASKS

_OF_DIGITS = (*DIGITS, DIGITS_BY_SPEAKER)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The tasks, and how their models are trained.

    Attributes:
        folder: What `fetch_small_data` wrote.
        out: Folder of configs, runs and tables.
        overrides: `section.key=value` each, of every run.
        tasks: Names of tasks; none for all that there are recordings for.
        folds: Number of folds of a task.
        minutes: About how long a training takes at most on two processor cores.
        fsdd: Folder of recordings of the Free Spoken Digit Dataset.
        jobs: Number of runs at a time.
    """

    folder: str
    out: str
    overrides: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    folds: int = 5
    minutes: float = 4.0
    fsdd: str | None = None
    jobs: int = 1

    def __post_init__(self):
        if unknown := [name for name in self.tasks if name not in NAMES]:
            raise UsageError(f'--tasks has no {", ".join(unknown)}: there are {", ".join(NAMES)}')
        digits = [name for name in self.tasks if name in _OF_DIGITS]
        if digits and self.fsdd is None:
            raise UsageError(f'{", ".join(digits)}: give --fsdd=RECORDINGS')
        if self.folds < 2:
            raise UsageError(f'--folds={self.folds}: a cross-validation has at least 2 folds')

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks of this call, in the order of the table."""
        present = NAMES if self.fsdd is not None else tuple(TASKS)
        return tuple(name for name in present if name in (self.tasks or present))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.allow_abbrev = False
    describe(
        parser,
        'For each task it chooses a config with elastic-ast configure, trains and evaluates the'
        ' folds, measures both baselines on them, and writes OUT/small_data.md and small_data.csv.'
        ' Finished parts are not repeated; interrupted commands resume. A task that fails is named,'
        ' the others go on, and the exit code is 1.',
    )
    parser.epilog = 'Overrides, --config.section.key=value, hold for every run.'
    parser.add_argument(
        'folder',
        type=local_path,
        metavar='FOLDER',
        help='what elastic-ast experiment fetch_small_data wrote',
    )
    parser.add_argument(
        '--out',
        required=True,
        type=local_path,
        metavar='OUT',
        help='folder of configs, runs and tables',
    )
    parser.add_argument(
        '--tasks',
        type=comma_separated_names,
        metavar='TASK,TASK,...',
        help=f'these only (default: {", ".join(TASKS)}; with --fsdd also {", ".join(_OF_DIGITS)})',
    )
    parser.add_argument(
        '--folds', type=positive_int, metavar='K', help='folds of each task (default 5)'
    )
    parser.add_argument(
        '--minutes',
        type=minutes,
        metavar='MINUTES',
        help='see elastic-ast configure --help (default 4)',
    )
    parser.add_argument(
        '--fsdd',
        type=local_path,
        metavar='RECORDINGS',
        help='recordings of the Free Spoken Digit Dataset, DIGIT_SPEAKER_TAKE.wav: digits_N trains'
        ' on N recordings of each digit with takes from 5 on, five times, and evaluates takes 0 to'
        ' 4; digits_by_speaker has folds of whole speakers',
    )
    parser.add_argument(
        '--jobs',
        type=positive_int,
        metavar='K',
        help='run K at a time, each on its share of the processors (default 1)',
    )


def run(options: Options) -> int:
    """Find the tasks, and work on them; see `study.Study.work`."""
    from elastic_ast_jax.experiments.small_data import digits, study, study_tasks

    out = Path(options.out).absolute()
    tasks = study_tasks.fetched_tasks(
        Path(options.folder), [name for name in options.names if name in TASKS]
    )
    if options.fsdd is not None:
        names = [name for name in options.names if name in _OF_DIGITS]
        tasks += digits.make_tasks(names, Path(options.fsdd), out)
    return study.Study(
        tasks=tasks,
        out=out,
        folds=options.folds,
        minutes=options.minutes,
        jobs=options.jobs,
        overrides=options.overrides,
    ).work()

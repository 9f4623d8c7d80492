"""`elastic-ast sweep`: train what the `sweep()` of a config file yields, or each of some folds."""

import argparse
import dataclasses
from collections.abc import Sequence

from elastic_ast_jax.cli.commands import UsageError, describe
from elastic_ast_jax.cli.types import positive_int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The sweep, the folder of its runs, and where they run.

    Attributes:
        config: A config file with `sweep()`.
        out: Folder of the workdirs.
        overrides: `section.key=value` each, of every run.
        local: Number of runs at a time on this machine.
        slurm: Submit a job array instead.
        sbatch: Options of `sbatch`.
        only_print: Print the commands, and start nothing.
        folds: Train and evaluate each of so many folds instead of what `sweep()` yields.
        array: The commands of a job array, of which this process runs one.
        program: The words after `--`, which replace `elastic-ast train`; None without `--`.
    """

    config: str = ''
    out: str = ''
    overrides: tuple[str, ...] = ()
    local: int = 1
    slurm: bool = False
    sbatch: Sequence[str] = ()
    only_print: bool = False
    folds: int | None = None
    array: str | None = None
    program: tuple[str, ...] | None = None

    def __post_init__(self):
        if not self.array and not (self.config and self.out):
            raise UsageError('--config=FILE and --out=FOLDER are needed')
        if self.program == ():
            raise UsageError('the program is missing after --')
        if '://' in self.out:
            raise UsageError(f'--out={self.out} must be a local folder')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    describe(
        parser,
        'Each run has its own workdir. Finished runs are not repeated; interrupted runs resume.',
    )
    parser.allow_abbrev = False
    parser.usage = (
        '%(prog)s --config=FILE[:ARG] --out=FOLDER [OPTIONS] [--config.key=value ...]'
        ' [-- PROGRAM ...]'
    )
    parser.epilog = (
        'PROGRAM is started instead of elastic-ast train, with the same arguments, such as: --'
        ' bash launch/local_processes.sh 2 -- elastic-ast train'
    )
    parser.add_argument('--config', metavar='FILE[:ARG]', help='a config file with sweep()')
    parser.add_argument('--out', metavar='FOLDER', help='folder of the workdirs')
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        '--local',
        type=positive_int,
        metavar='K',
        help='run on this machine, K runs at a time (default 1)',
    )
    place.add_argument(
        '--slurm', action='store_true', help='submit a job array of launch/slurm.sbatch'
    )
    parser.add_argument(
        '--sbatch',
        action='append',
        metavar='OPTION',
        help='an option of sbatch, such as --sbatch=--partition=gpu; may be repeated',
    )
    parser.add_argument(
        '--print',
        '--dry_run',
        dest='only_print',
        action='store_true',
        help='print the commands, and start nothing',
    )
    parser.add_argument(
        '--folds',
        type=positive_int,
        metavar='K',
        help='cross-validation: train and evaluate each of K folds of the training clips, and write'
        ' folds.csv, folds.md and out_of_fold.csv; sweep() is not used',
    )
    parser.add_argument('--array', metavar='FILE', help=argparse.SUPPRESS)  # a task of a job array


def run(options: Options) -> int | None:
    """Train every run that is not finished; see `sweep.run`."""
    from elastic_ast_jax.experiments import sweep

    if options.array:
        sweep.run_array_task(options.array)
        return None
    place = sweep.Place(
        options.program or sweep.TRAIN,
        options.local,
        options.slurm,
        tuple(options.sbatch),
        options.only_print,
    )
    if options.folds is None:
        return sweep.run(options.config, options.out, overrides=options.overrides, place=place)
    from elastic_ast_jax.experiments import cross_validation

    return cross_validation.run(
        options.config, options.out, options.folds, overrides=options.overrides, place=place
    )

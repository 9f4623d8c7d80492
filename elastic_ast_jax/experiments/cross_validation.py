"""Train and evaluate each fold of a cross-validation, and write its tables.

A fold is a config with `data.folds` and `data.fold`, and has a workdir of its own.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from elastic_ast_jax.experiments import fold_tables, sweep
from elastic_ast_jax.experiments.measured_runs import MeasuredRuns
from elastic_ast_jax.experiments.sweep import SweepError

__all__ = ['plan', 'run', 'work']


def run(
    config: str, out: str, folds: int, *, overrides: Sequence[str] = (), place: sweep.Place
) -> int:
    """Train and evaluate every fold that is not, then write the tables of all.

    Args:
        config: A config file, `FILE` or `FILE:ARG`.
        out: Folder of the workdirs and the tables.
        folds: Number of folds.
        overrides: `section.key=value` each, of every fold.
        place: Where the folds are trained. A job array only trains; once it is finished, the same
            call evaluates on this machine.

    Returns:
        The exit code: 0 if all is done or submitted, 1 if a command failed.

    Raises:
        SweepError, ConfigError: The folds are not possible. Nothing was started.
        DataError: The data cannot be divided. Nothing was started.
    """
    folder = Path(out).absolute()
    runs = plan(config, folder, folds, overrides)
    if place.only_print and not place.slurm:
        for command in runs.commands(place.program):
            print(shlex.join(command))
        return 0
    return work(runs, folder, place)


def plan(config: str, folder: Path, folds: int, overrides: Sequence[str] = ()) -> MeasuredRuns:
    """Return the folds of a config; see `run`.

    Raises:
        SweepError, ConfigError: The folds are not possible.
    """
    if folds < 2:
        raise SweepError(f'--folds={folds}: a cross-validation has at least 2 folds')
    varied = [{'data.folds': folds, 'data.fold': number} for number in range(1, folds + 1)]
    return MeasuredRuns(config, folder, varied, overrides=overrides, varied_by=f'--folds={folds}')


def work(runs: MeasuredRuns, folder: Path, place: sweep.Place) -> int:
    """Train and measure folds, and write their tables into a folder; see `run`."""
    if runs.unfinished and not place.slurm:
        runs.check_division()
    code = runs.train(place)
    if code or place.only_print or (place.slurm and runs.unfinished):
        return code
    if code := runs.measure(place):
        return code
    fold_tables.write(runs.files(), runs.configs[0], folder)
    return 0

"""Train and evaluate each fold of a cross-validation, and write its tables.

A fold is a config with `data.folds` and `data.fold`, and has a workdir of its own. Nothing is
repeated: neither the training of a finished fold, nor an evaluation or a baseline.
"""

import contextlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config import loading, stored
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.evaluation import predictions_file
from elastic_ast_jax.experiments import fold_tables, sweep
from elastic_ast_jax.experiments.fold_tables import BASELINES, FoldFiles
from elastic_ast_jax.experiments.local_runs import LocalRuns, Run, is_finished, total_steps
from elastic_ast_jax.experiments.sweep import SweepError
from elastic_ast_jax.training import training_data
from elastic_ast_jax.utils.text import printable

__all__ = ['run']

# A command, and what it is for messages and its log.
Task = tuple[Run, list[str]]


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
    if folds < 2:
        raise SweepError(f'--folds={folds}: a cross-validation has at least 2 folds')
    folder = Path(out).absolute()
    varied = [{'data.folds': folds, 'data.fold': number} for number in range(1, folds + 1)]
    runs = sweep.plan_runs(config, overrides, folder, varied, f'--folds={folds}')
    configs = [loading.absolute_paths(loading.load(config, run.overrides)) for run in runs]
    unfinished = [run for run in runs if not run.finished]
    if place.only_print and not place.slurm:
        tasks = [(run, run.command(place.program, config)) for run in unfinished]
        tasks += _measurements(runs, configs, config, folder)
        for _, command in tasks:
            print(shlex.join(command))
        return 0
    if unfinished and not place.slurm:
        _check_division(runs, configs)
    code = sweep.train_runs(runs, config, folder, place)
    if code or place.only_print or (place.slurm and unfinished):
        return code
    return _measure(runs, configs, config, folder, place.jobs)


def _measure(
    runs: Sequence[Run], configs: Sequence[Config], config: str, out: Path, jobs: int
) -> int:
    """Run the missing evaluations and baselines, and write the tables; return the exit code."""
    if missing := [run.name for run in runs if not is_finished(run.workdir)]:
        raise SweepError(
            f'{", ".join(missing)}: not finished, although the training ended: see the logs in'
            f' {printable(str(out / "logs"))}'
        )
    if tasks := _measurements(runs, configs, config, out):
        names, commands = zip(*tasks, strict=True)
        if code := LocalRuns(jobs).work(names, commands):
            return code
    results = [
        FoldFiles(fold_config.data.fold, run.workdir / 'eval', _baseline_folders(fold_config, out))
        for run, fold_config in zip(runs, configs, strict=True)
    ]
    fold_tables.write(results, configs[0], out)
    return 0


def _measurements(
    runs: Sequence[Run], configs: Sequence[Config], config: str, out: Path
) -> list[Task]:
    """Return the missing evaluations and baselines."""
    return _evaluations(runs, configs) + _baselines(runs, configs, config, out)


def _check_division(runs: Sequence[Run], configs: Sequence[Config]) -> None:
    """Open both sides of a fold, before any training starts.

    Raises:
        DataError: The data cannot be opened or divided.
        WorkdirError: A finished fold was trained on other clips.
    """
    splits.check_paths(configs[0])
    for split in ('train', 'eval'):
        splits.open_source(configs[0], split)
    for run, config in zip(runs, configs, strict=True):
        if run.finished:
            workdir = Workdir(run.workdir)
            training_data.check_division(workdir.config(), config, workdir)


def _checkpoint(config: Config, workdir: Path) -> tuple[str, int]:
    """Return the checkpoint of a fold that is evaluated, and its step.

    This is the best one if it was selected without the fold, otherwise the last one.
    """
    if config.data.validation_share:
        from elastic_ast_jax.checkpointing.checkpoints import Checkpoints  # slow to import

        with Checkpoints(Workdir(workdir).checkpoints, read_only=True) as checkpoints:
            step = checkpoints.best_step()
        if step is not None:
            return 'best', step
    return 'latest', total_steps(workdir)


def _evaluations(runs: Sequence[Run], configs: Sequence[Config]) -> list[Task]:
    """Return the missing evaluations; of a fold that is not trained, as if it were."""
    tasks = []
    for run, config in zip(runs, configs, strict=True):
        name = 'best' if config.data.validation_share else 'latest'
        if is_finished(run.workdir):
            name, step = _checkpoint(config, run.workdir)
            if _is_evaluated(run.workdir / 'eval', step):
                continue
        options = [f'--workdir={run.workdir}', f'--checkpoint={name}', '--predictions']
        tasks.append((_task(run, 'evaluation'), _command('evaluate', *options)))
    return tasks


def _is_evaluated(folder: Path, step: int) -> bool:
    """Return whether a fold has the metrics and the predictions of a checkpoint."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        values = json.loads((folder / 'metrics.json').read_text(encoding='utf-8'))
        is_current = values['step'] == step and not values['overrides']
        return is_current and (folder / predictions_file.NAME).exists()
    return False


def _baselines(
    runs: Sequence[Run], configs: Sequence[Config], config: str, out: Path
) -> list[Task]:
    """Return the missing baselines, if the config compares with them."""
    tasks = []
    for run, fold_config in zip(runs, configs, strict=True):
        for features, folder in _baseline_folders(fold_config, out).items():
            if not _is_measured(folder, fold_config):
                options = [
                    f'--config={config}',
                    f'--features={features}',
                    f'--out={folder}',
                    *(f'--config.{override}' for override in run.overrides),
                ]
                task = _task(run, f'{features} baseline')
                tasks.append((task, _command('baseline', *options)))
    return tasks


def _baseline_folders(config: Config, out: Path) -> dict[str, Path]:
    """Return the folder of each baseline of a fold; none if the config compares with none."""
    if not config.train.compare_baseline:
        return {}
    return {
        features: out / 'baselines' / f'fold{config.data.fold}-{features}' for features in BASELINES
    }


def _is_measured(folder: Path, config: Config) -> bool:
    """Return whether a baseline was measured on the clips of a fold."""
    data = json.loads(stored.to_json(config))['data']
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        # Not read as a config: the default frontend need not fit the rows.
        before = json.loads((folder / 'config.json').read_text('utf-8'))
        is_current = before['data'] == data and before['train']['loss'] == config.train.loss
        return is_current and (folder / 'eval' / 'metrics.json').exists()
    return False


def _task(run: Run, task: str) -> Run:
    """Return what a command is about a fold."""
    log = run.log.with_name(f'{run.name}-{task.replace(" ", "-")}.log')
    return Run(f'{run.name}, {task}', run.workdir, log, ())


def _command(name: str, *options: str) -> list[str]:
    """Return a command of `elastic-ast`, with the Python of this process."""
    return [sys.executable, '-m', 'elastic_ast_jax', name, *options]

"""Train and evaluate runs of one config, and measure both baselines on the clips of each.

Nothing is repeated: neither the training of a finished run, nor an evaluation or a baseline.
"""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config import loading, stored
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.evaluation import predictions_file
from elastic_ast_jax.experiments import sweep
from elastic_ast_jax.experiments.fold_tables import BASELINES, FoldFiles
from elastic_ast_jax.experiments.local_runs import (
    LocalRuns,
    Run,
    is_finished,
    own_command,
    total_steps,
)
from elastic_ast_jax.experiments.sweep import SweepError
from elastic_ast_jax.training import training_data
from elastic_ast_jax.utils.text import printable

__all__ = ['MeasuredRuns']

# A command, and what it is for messages and its log.
Task = tuple[Run, list[str]]


class MeasuredRuns:
    """Hold runs of one config, each with an evaluation and the baselines on its clips."""

    def __init__(
        self,
        config: str,
        out: Path,
        varied: Sequence[Mapping[str, Any]],
        *,
        overrides: Sequence[str] = (),
        varied_by: str,
        unit: str = 'fold',
        names: Sequence[str] = (),
    ):
        """Check all runs; nothing is started.

        Args:
            config: A config file, `FILE` or `FILE:ARG`.
            out: Folder of the workdirs, the baselines and the logs.
            varied: Overrides of each run.
            overrides: `section.key=value` each, of every run.
            varied_by: What the runs come from, for messages.
            unit: What a run is. With its number, the name of its baselines.
            names: Name of each workdir. Empty: named by the overrides.

        Raises:
            SweepError, ConfigError: The runs are not possible.
        """
        self._config, self._out, self._unit = config, out, unit
        self.runs = sweep.plan_runs(config, overrides, out, varied, varied_by, names)
        self.configs = [
            loading.absolute_paths(loading.load(config, run.overrides)) for run in self.runs
        ]

    @property
    def unfinished(self) -> list[Run]:
        """Return the runs that were not trained to the end when they were planned."""
        return [run for run in self.runs if not run.finished]

    def is_complete(self) -> bool:
        """Return whether every run is trained, evaluated and compared with the baselines."""
        return all(is_finished(run.workdir) for run in self.runs) and not self._measurements()

    def commands(self, program: Sequence[str]) -> list[list[str]]:
        """Return the commands that are left: of training, evaluations and baselines."""
        training = [
            run.command(program, self._config) for run in self._training_runs() if not run.finished
        ]
        return training + [command for _, command in self._measurements()]

    def check_division(self) -> None:
        """Open both sides of a run, before any training starts.

        Raises:
            DataError: The data cannot be opened or divided.
            WorkdirError: A finished run was trained on other clips.
        """
        splits.check_paths(self.configs[0])
        for split in ('train', 'eval'):
            splits.open_source(self.configs[0], split)
        for run, config in zip(self.runs, self.configs, strict=True):
            if run.finished:
                workdir = Workdir(run.workdir)
                training_data.check_division(workdir.config(), config, workdir)

    def train(self, place: sweep.Place) -> int:
        """Train the runs that are not finished; return the exit code."""
        return sweep.train_runs(self._training_runs(), self._config, self._out, place)

    def measure(self, place: sweep.Place) -> int:
        """Run the missing evaluations and baselines on this machine; return the exit code.

        Raises:
            SweepError: A run is not finished.
        """
        if missing := [run.name for run in self.runs if not is_finished(run.workdir)]:
            raise SweepError(
                f'{", ".join(missing)}: not finished, although the training ended: see the logs in'
                f' {printable(str(self._out / "logs"))}'
            )
        if not (tasks := self._measurements()):
            return 0
        names, commands = zip(*tasks, strict=True)
        return LocalRuns(place.jobs, place.name).work(names, commands)

    def files(self) -> list[FoldFiles]:
        """Return where the results of each run are."""
        return [
            FoldFiles(number, run.workdir / 'eval', self._baseline_folders(number))
            for number, run in enumerate(self.runs, 1)
        ]

    def _training_runs(self) -> list[Run]:
        """Return the runs as they are trained: without baselines, which `measure` fits once."""
        return [
            dataclasses.replace(run, overrides=(*run.overrides, 'train.compare_baseline=false'))
            if config.train.compare_baseline
            else run
            for run, config in zip(self.runs, self.configs, strict=True)
        ]

    def _measurements(self) -> list[Task]:
        """Return the missing evaluations and baselines."""
        return self._evaluations() + self._baselines()

    def _evaluations(self) -> list[Task]:
        """Return the missing evaluations; of a run that is not trained, as if it were."""
        tasks = []
        for run, config in zip(self.runs, self.configs, strict=True):
            name = 'best' if config.data.validation_share else 'latest'
            if is_finished(run.workdir):
                name, step = _checkpoint(config, run.workdir)
                if _is_evaluated(run.workdir / 'eval', step):
                    continue
            options = [f'--workdir={run.workdir}', f'--checkpoint={name}', '--predictions']
            tasks.append((_task(run, 'evaluation'), own_command('evaluate', *options)))
        return tasks

    def _baselines(self) -> list[Task]:
        """Return the missing baselines, if the config compares with them."""
        tasks = []
        for number, (run, config) in enumerate(zip(self.runs, self.configs, strict=True), 1):
            for features, folder in self._baseline_folders(number).items():
                if not _is_measured(folder, config):
                    options = [
                        f'--config={self._config}',
                        f'--features={features}',
                        f'--out={folder}',
                        *(f'--config.{override}' for override in run.overrides),
                    ]
                    task = _task(run, f'{features} baseline')
                    tasks.append((task, own_command('baseline', *options)))
        return tasks

    def _baseline_folders(self, number: int) -> dict[str, Path]:
        """Return the folder of each baseline of a run; none if the config compares with none."""
        if not self.configs[number - 1].train.compare_baseline:
            return {}
        folder = self._out / 'baselines'
        return {features: folder / f'{self._unit}{number}-{features}' for features in BASELINES}


def _checkpoint(config: Config, workdir: Path) -> tuple[str, int]:
    """Return the checkpoint of a run that is evaluated, and its step.

    This is the best one if it was selected on a validation split, otherwise the last one.
    """
    if config.data.validation_share:
        from elastic_ast_jax.checkpointing.checkpoints import Checkpoints  # slow to import

        with Checkpoints(Workdir(workdir).checkpoints, read_only=True) as checkpoints:
            step = checkpoints.best_step()
        if step is not None:
            return 'best', step
    return 'latest', total_steps(workdir)


def _is_evaluated(folder: Path, step: int) -> bool:
    """Return whether a run has the metrics and the predictions of a checkpoint."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        values = json.loads((folder / 'metrics.json').read_text(encoding='utf-8'))
        is_current = values['step'] == step and not values['overrides']
        return is_current and (folder / predictions_file.NAME).exists()
    return False


def _is_measured(folder: Path, config: Config) -> bool:
    """Return whether a baseline was measured on the clips of a run."""
    data = json.loads(stored.to_json(config))['data']
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        # Not read as a config: the default frontend need not fit the rows.
        before = json.loads((folder / 'config.json').read_text('utf-8'))
        is_current = before['data'] == data and before['train']['loss'] == config.train.loss
        return is_current and (folder / 'eval' / 'metrics.json').exists()
    return False


def _task(run: Run, task: str) -> Run:
    """Return what a command is about a run."""
    log = run.log.with_name(f'{run.name}-{task.replace(" ", "-")}.log')
    return Run(f'{run.name}, {task}', run.workdir, log, ())

"""Train, evaluate and draw an experiment; `definitions` lists the experiments.

Finished parts are not repeated, and interrupted ones resume, so a finished experiment is only drawn
again. Runs are shared: an experiment uses those that another one trained in the same folder.
"""

import contextlib
import fcntl
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config import loading, stored
from elastic_ast_jax.evaluation import published
from elastic_ast_jax.evaluation.sweep_axes import AXES, SweepKind, file_stem
from elastic_ast_jax.experiments import variants
from elastic_ast_jax.experiments.definitions import Definition
from elastic_ast_jax.experiments.local_runs import (
    LocalRuns,
    Run,
    is_finished,
    own_command,
    total_steps,
)
from elastic_ast_jax.experiments.variants import ExperimentError, Model

BASELINE = 'logistic regression'
# Exit codes above this are 128 plus the number of a signal.
_SIGNAL_EXIT = 128


class Experiment:
    """Run an experiment on a recipe's data."""

    def __init__(
        self,
        config: str,
        definition: Definition,
        *,
        name: str,
        out: str | os.PathLike | None = None,
        seeds: Sequence[int] = (0, 1, 2),
        jobs: int = 1,
        overrides: Sequence[str] = (),
    ):
        """Find the models, and check all their configs.

        Args:
            config: Config file of the recipe.
            definition: Models, and the curve that compares them.
            name: Name of the experiment, and of its folder of tables and plots.
            out: Folder of runs, tables and plots; None: `runs/experiments/NAME_OF_CONFIG`.
            seeds: Seeds of the runs.
            jobs: Number of runs at a time, each on its share of the processors.
            overrides: `section.key=value` each, of every run.

        Raises:
            ExperimentError, ConfigError: The recipe does not support this experiment, or a config
                is not possible.
        """
        self._config, self._definition, self._name = config, definition, name
        self._seeds, self._jobs, self._overrides = list(seeds), jobs, tuple(overrides)
        self._recipe, path, argument = loading.load_module(config)
        if argument:
            raise ExperimentError(
                f'{config}: give the file alone, {path}; the experiment chooses its variants'
            )
        self._task = Path(path).stem
        self._out = Path(out or Path('runs', 'experiments', self._task)).absolute()
        self._models = list(variants.list_models(self._recipe, path, definition, self._overrides))
        self._points = self._recipe_points(definition.sweep) if definition.sweep else ()
        self._check_workdirs(path)

    def _recipe_points(self, sweep: SweepKind) -> tuple[int, ...]:
        sweeps = getattr(self._recipe, 'SWEEPS', {})
        if sweep not in sweeps:
            raise ExperimentError(
                f'{self._config}: SWEEPS has no {sweep!r}, the points of this curve'
            )
        return tuple(sorted(set(loading.python_value(sweeps[sweep]))))

    def _check_workdirs(self, path: str) -> None:
        """Check that each workdir is new, or has the config of its run."""
        advice = 'Give another --out; data that were moved can have a link at their old place'
        for model in self._models:
            for seed in self._seeds:
                overrides = self._run_overrides(model, seed)
                config = loading.load(f'{path}:{model.variant}', overrides)
                Workdir(model.folder(self._out, seed)).check_config(
                    loading.absolute_paths(config), also=loading.DATA_PATHS, advice=advice
                )

    def work(self) -> int:
        """Train and evaluate what is missing, seed by seed, and draw complete results.

        Returns:
            0, or 1 if a run failed, or 128 plus the number of the signal that ended the experiment.

        Raises:
            ExperimentError: Another experiment works in the same folder.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        with open(self._out / 'lock', 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ExperimentError(
                    f'{self._out}: another experiment is at work there, and shares its runs: wait'
                    ' for it, or give another --out'
                ) from None
            return self._work_locked()

    def _work_locked(self) -> int:
        runner, failed = LocalRuns(self._jobs, self._name), 0
        for seed in self._seeds:
            for list_missing in (self._missing_training, self._missing_evaluations):
                if missing := list_missing(seed):
                    code = runner.work(
                        [run for run, _ in missing], [command for _, command in missing]
                    )
                    if code > _SIGNAL_EXIT:
                        return code
                    failed |= code
        return failed or self._draw()

    def _run_overrides(self, model: Model, seed: int) -> tuple[str, ...]:
        """Return all overrides of a run."""
        return (*self._overrides, *model.overrides, f'train.seed={seed}')

    def _missing_training(self, seed: int) -> list[tuple[Run, list[str]]]:
        """Return the runs that are not trained to the end, and their commands.

        Runs with the most tokens come first, so that a long one does not run alone at the end.
        """
        missing = []
        for model in sorted(
            self._models, key=lambda model: self._step_tokens(model, seed), reverse=True
        ):
            run = self._make_run(model, seed, 'train')
            if not is_finished(run.workdir):
                options = [
                    f'--config={self._config}:{model.variant}',
                    f'--workdir={run.workdir}',
                    *(f'--config.{text}' for text in self._run_overrides(model, seed)),
                ]
                missing.append((run, own_command('train', *options)))
        return missing

    def _step_tokens(self, model: Model, seed: int) -> int:
        overrides = self._run_overrides(model, seed)
        packing = loading.load(f'{self._config}:{model.variant}', overrides).packing
        return packing.rows * packing.tokens

    def _missing_evaluations(self, seed: int) -> list[tuple[Run, list[str]]]:
        """Return the missing sweeps of trained models, and the missing baseline; with commands.

        The baseline has no seed: it goes with the first one.
        """
        missing = []
        if seed == self._seeds[0] and not self._has_baseline():
            missing.append(self._baseline_run())
        sweep = self._definition.sweep
        if sweep is None:
            return missing
        for model in self._models:
            for length_mode in self._length_modes(model):
                run = self._make_run(model, seed, f'{sweep}-{length_mode}')
                if not is_finished(run.workdir):
                    continue  # its training has failed, and reported why
                stem = file_stem(sweep, resized=length_mode == 'resized')
                if not _has_sweep(run.workdir, stem, self._points, total_steps(run.workdir)):
                    options = [
                        f'--workdir={run.workdir}',
                        *self._sweep_options(),
                        f'--fixed_length={length_mode}',
                    ]
                    missing.append((run, own_command('evaluate', *options)))
        return missing

    def _length_modes(self, model: Model | None = None) -> tuple[str, ...]:
        """Return the ways in which a sweep treats ASTs; of a model, those that apply to it.

        An AST that was trained at many frame shifts has its own length at each of them.
        """
        if model is not None and model.variant.partition(',')[0] != 'ast':
            return ('own',)
        return self._definition.fixed_length or ('own',)

    def _baseline_folder(self) -> Path:
        """Return the folder of the logistic regression: over this sweep, or on whole clips."""
        return self._out / BASELINE / (self._definition.sweep or 'whole')

    def _baseline_run(self) -> tuple[Run, list[str]]:
        folder = self._baseline_folder()
        log = self._out / 'logs' / f'{BASELINE}-{folder.name}.log'
        options = [
            f'--config={self._config}:{self._models[0].variant}',
            f'--out={folder}',
            '--features=plain',
            *(self._sweep_options() if self._definition.sweep else ()),
            *(f'--config.{text}' for text in self._overrides),
        ]
        run = Run(f'{BASELINE}, {folder.name}', folder, log, ())
        return run, own_command('baseline', *options)

    def _has_baseline(self) -> bool:
        """Return whether the baseline was measured on the same data and features."""
        folder = self._baseline_folder()
        if self._definition.sweep:
            evaluated = _has_sweep(folder, self._definition.sweep, self._points, 0)
        else:
            evaluated = (folder / 'eval' / 'metrics.json').exists()
        if not evaluated:
            return False
        with contextlib.suppress(OSError, ValueError, TypeError):
            values = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
            before = stored.from_json(values)
            config = loading.load(f'{self._config}:{self._models[0].variant}', self._overrides)
            now = loading.absolute_paths(config)
            return (before.data, before.frontend) == (now.data, now.frontend)
        return False

    def _make_run(self, model: Model, seed: int, task: str) -> Run:
        folder = model.folder(self._out, seed)
        log = self._out / 'logs' / f'{folder.parent.name}-{seed}-{task}.log'
        return Run(f'{folder.parent.name}, seed {seed}, {task}', folder, log, ())

    def _sweep_options(self) -> list[str]:
        option = '--points' if self._definition.sweep == 'length' else '--shifts'
        points = ','.join(map(str, self._points))
        return [f'--sweep={self._definition.sweep}', f'{option}={points}']

    def _draw(self) -> int:
        """Write tables and plots of all seeds with `elastic-ast compare`."""
        out, sweep = self._out / self._name, self._definition.sweep
        # Over a key, the runs of all its values have one name.
        workdirs: dict[str, list[str]] = {}
        for model in self._models:
            argument = f'--beside={model.name}' if model.beside else model.name
            workdirs.setdefault(argument, []).extend(
                str(model.folder(self._out, seed)) for seed in self._seeds
            )
        groups = [f'{argument}={",".join(paths)}' for argument, paths in workdirs.items()]
        groups.append(f'--beside={BASELINE}={self._baseline_folder()}')
        if not sweep:
            return _run(
                own_command('compare', *groups, f'--over={self._definition.over}', f'--out={out}')
            )
        failed = 0
        for length_mode in self._length_modes():
            options = [f'--sweep={sweep}', f'--fixed_length={length_mode}', f'--out={out}']
            # The paper's ASTs were run at the length of each point.
            if self._task in published.DATA_SETS[sweep] and length_mode == 'resized':
                options.append(f'--published={self._task}')
            failed |= _run(own_command('compare', *groups, *options))
        return failed


def _has_sweep(workdir: Path, stem: str, points: Sequence[int], step: int) -> bool:
    """Return whether a workdir has a sweep of this step's checkpoint, at these points.

    A sweep on other clips than the recipe's does not count.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        sweep = json.loads((workdir / 'eval' / f'{stem}.json').read_text(encoding='utf-8'))
        key = AXES[sweep['sweep']].common
        same_points = [point[key] for point in sweep['points']] == list(points)
        # An average of several checkpoints has the step of the last one, but another description.
        newest = (f'step {step}', f'step {step}, moving average')
        return (
            same_points
            and 'model' in sweep
            and sweep['step'] == step
            and (not step or sweep['checkpoint'] in newest)
            and not sweep['overrides']
        )
    return False


def _run(command: Sequence[str]) -> int:
    return subprocess.run(command, check=False).returncode

"""Train, evaluate and draw an experiment; `definitions` lists the experiments.

Finished parts are not repeated, and interrupted ones resume, so a finished experiment is only drawn
again. Runs are shared: an experiment uses those that another one trained in the same folder.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config import loading, stored
from elastic_ast_jax.evaluation import published
from elastic_ast_jax.evaluation.sweep_axes import AXES, file_stem
from elastic_ast_jax.experiments import sweep as runs_of
from elastic_ast_jax.experiments import variants
from elastic_ast_jax.experiments.definitions import Definition
from elastic_ast_jax.experiments.variants import ExperimentError, Model

BASELINE = 'logistic regression'
SIGNALLED = 128


class Experiment:
    """An experiment on a recipe's data."""

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
            config: The recipe, a config file.
            definition: The models, and the curve that compares them.
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
        self._models = list(variants.of_experiment(self._recipe, path, definition, self._overrides))
        self._hows = (definition.fixed_length or ('own',)) if definition.sweep else ()
        if definition.sweep:
            self._points()
        for model in self._models:
            for seed in self._seeds:
                used = loading.absolute_paths(
                    loading.load(f'{path}:{model.variant}', self._changed(model, seed))
                )
                advice = (
                    'Give another --out; data that were moved can have a link at their old place'
                )
                Workdir(model.folder(self._out, seed)).check_config(
                    used, also=loading.DATA_PATHS, advice=advice
                )

    def work(self) -> int:
        """Trains and evaluates what is missing, seed by seed, and draws what is complete.

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
            return self._work()

    def _work(self) -> int:
        runs, failed = runs_of.LocalRuns(self._jobs, self._name), 0
        for seed in self._seeds:
            for missing in (self._training, self._evaluation):
                if what := missing(seed):
                    code = runs.work([run for run, _ in what], [command for _, command in what])
                    if code > SIGNALLED:
                        return code
                    failed |= code
        return failed or self._draw()

    def _changed(self, model: Model, seed: int) -> tuple[str, ...]:
        """All overrides of a run."""
        return (*self._overrides, *model.overrides, f'train.seed={seed}')

    def _training(self, seed: int) -> list[tuple[runs_of.Run, list[str]]]:
        """Of models that are not trained to the end;

        those of the most tokens first, so that none is left alone.
        """
        found = []
        for model in sorted(
            self._models, key=lambda model: self._tokens(model, seed), reverse=True
        ):
            run = self._run(model, seed, 'train')
            if not runs_of.finished(run.workdir):
                options = [
                    f'--config={self._config}:{model.variant}',
                    f'--workdir={run.workdir}',
                ]
                options += [f'--config.{text}' for text in self._changed(model, seed)]
                found.append((run, _command('train', *options)))
        return found

    def _tokens(self, model: Model, seed: int) -> int:
        """Of a step."""
        packing = loading.load(
            f'{self._config}:{model.variant}', self._changed(model, seed)
        ).packing
        return packing.rows * packing.tokens

    def _evaluation(self, seed: int) -> list[tuple[runs_of.Run, list[str]]]:
        """Of curves that are not there, of models that are trained to the end;

        and of the baseline, which has no seed.
        """
        sweep, found = self._definition.sweep, []
        points = self._points() if sweep else ()
        if seed == self._seeds[0] and not self._has_baseline():
            folder = self._baseline()
            run = runs_of.Run(
                f'{BASELINE}, {folder.name}',
                folder,
                self._out / 'logs' / f'{BASELINE}-{folder.name}.log',
                (),
            )
            config = f'{self._config}:{self._models[0].variant}'
            options = [
                f'--config={config}',
                f'--out={folder}',
                *(self._sweep_options(points) if sweep else ()),
            ]
            found.append(
                (
                    run,
                    _command(
                        'baseline', *options, *(f'--config.{text}' for text in self._overrides)
                    ),
                )
            )
        for model in self._models if sweep else ():
            # One that was trained at many frame shifts has its own length at each of them.
            one_shift = model.variant.partition(',')[0] == 'ast'
            for how in self._hows if one_shift else ['own']:
                run = self._run(model, seed, f'{sweep}-{how}')
                if not runs_of.finished(run.workdir):
                    continue  # its training has failed, and said so
                if not _measured(
                    run.workdir,
                    file_stem(sweep, how == 'resized'),
                    points,
                    runs_of.steps(run.workdir),
                ):
                    options = [
                        f'--workdir={run.workdir}',
                        *self._sweep_options(points),
                        f'--fixed_length={how}',
                    ]
                    found.append((run, _command('evaluate', *options)))
        return found

    def _baseline(self) -> Path:
        """Folder of the logistic regression: over this sweep, or on whole clips."""
        return self._out / BASELINE / (self._definition.sweep or 'whole')

    def _has_baseline(self) -> bool:
        """Whether it was measured on these data, by these features."""
        folder, sweep = self._baseline(), self._definition.sweep
        if not (
            _measured(folder, sweep, self._points(), 0)
            if sweep
            else (folder / 'eval' / 'metrics.json').exists()
        ):
            return False
        with contextlib.suppress(OSError, ValueError, TypeError):
            values = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
            before = stored.from_json(values)
            used = loading.load(f'{self._config}:{self._models[0].variant}', self._overrides)
            now = loading.absolute_paths(used)
            return (before.data, before.frontend) == (now.data, now.frontend)
        return False

    def _run(self, model: Model, seed: int, what: str) -> runs_of.Run:
        folder = model.folder(self._out, seed)
        log = self._out / 'logs' / f'{folder.parent.name}-{seed}-{what}.log'
        return runs_of.Run(f'{folder.parent.name}, seed {seed}, {what}', folder, log, ())

    def _points(self) -> tuple[int, ...]:
        sweeps = getattr(self._recipe, 'SWEEPS', {})
        if self._definition.sweep not in sweeps:
            raise ExperimentError(
                f'{self._config}: SWEEPS has no {self._definition.sweep!r}, the points of this'
                ' curve'
            )
        return tuple(sorted(set(sweeps[self._definition.sweep])))

    def _sweep_options(self, points: Sequence[int]) -> list[str]:
        option = '--points' if self._definition.sweep == 'length' else '--shifts'
        return [f'--sweep={self._definition.sweep}', f'{option}={",".join(map(str, points))}']

    def _draw(self) -> int:
        """Tables and plots of all seeds, by `elastic-ast compare`."""
        out = self._out / self._name
        workdirs: dict[
            str, list[str]
        ] = {}  # over a key, the runs of all its values are of one name
        for model in self._models:
            given = f'--beside={model.name}' if model.beside else model.name
            workdirs.setdefault(given, []).extend(
                str(model.folder(self._out, seed)) for seed in self._seeds
            )
        groups = [f'{given}={",".join(its)}' for given, its in workdirs.items()] + [
            f'--beside={BASELINE}={self._baseline()}'
        ]
        if not self._definition.sweep:
            return _told(
                _command('compare', *groups, f'--over={self._definition.over}', f'--out={out}')
            )
        known = published.DATA_SETS[self._definition.sweep]
        failed = 0
        for how in self._hows:
            options = [f'--sweep={self._definition.sweep}', f'--fixed_length={how}', f'--out={out}']
            if self._task in known and how == 'resized':  # as the paper's ASTs were run
                options.append(f'--published={self._task}')
            failed |= _told(_command('compare', *groups, *options))
        return failed


def _measured(workdir: Path, stem: str, points: Sequence[int], step: int) -> bool:
    """Whether a sweep of the checkpoint of this step is there, at these points, on the recipe's
    clips.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((workdir / 'eval' / f'{stem}.json').read_text(encoding='utf-8'))
        key = AXES[found['sweep']].common
        as_here = [point[key] for point in found['points']] == list(points) and 'model' in found
        newest = (
            f'step {step}',
            f'step {step}, moving average',
        )  # an average of several has the step of the last
        return (
            as_here
            and found['step'] == step
            and (not step or found['checkpoint'] in newest)
            and not found['overrides']
        )
    return False


def _command(name: str, *options: str) -> list[str]:
    """Of `elastic-ast`, with the Python that runs this."""
    return [sys.executable, '-m', 'elastic_ast_jax', name, *options]


def _told(command: Sequence[str]) -> int:
    return subprocess.run(command, check=False).returncode

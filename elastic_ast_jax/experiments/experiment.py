"""Trains, evaluates and draws one of the paper's experiments; the scripts in launch/experiments say
which models each has.

    python -m elastic_ast_jax.experiments.experiment CONFIG --name=NAME --model=VARIANT ...
    --sweep=KIND [--config.key=value ...]

What is finished is left alone, what was interrupted goes on, so that a finished experiment is only
drawn again. Runs are shared: an experiment takes those that another has trained in the same folder.
"""

import argparse
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
from elastic_ast_jax.experiments.variants import ExperimentError, Model
from elastic_ast_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

BASELINE = 'logistic regression'
SIGNALLED = 128
INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Runs an experiment; returns 0, 1 if something failed, or 128 and the number of a signal."""
    options, overrides = _arguments(argv)
    try:
        return Experiment(options, overrides).work()
    except (UserError, OSError) as error:
        print(f'{options.name}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options, and overrides of every run without `--config.`."""
    parser = argparse.ArgumentParser(
        prog='experiment.py', allow_abbrev=False, description="One of the paper's experiments."
    )
    parser.add_argument(
        '--name', required=True, help='of the experiment, and of its folder of tables and plots'
    )
    parser.add_argument(
        '--model',
        action='append',
        required=True,
        metavar='VARIANT',
        help=(
            'of the recipe: first|second for '
            'the first that it has, word? if it has it, and key=* for each value of a key'
        ),
    )
    parser.add_argument(
        '--beside',
        action='append',
        default=[],
        metavar='VARIANT',
        help='as --model, for a model that a sweep shows, and that no other is measured by',
    )
    parser.add_argument(
        '--row_budget',
        metavar='N,N,...',
        help='train each model with the tokens of a step in so many rows, where they divide so',
    )
    parser.add_argument(
        '--vary', metavar='KEY=VALUE,...', help='train each model with each of these values'
    )
    parser.add_argument(
        '--sweep', choices=('length', 'resolution'), help='evaluate each model over this sweep'
    )
    parser.add_argument(
        '--over', metavar='KEY', help='or draw the accuracy on whole clips over this key'
    )
    parser.add_argument(
        '--fixed_length',
        action='append',
        choices=('own', 'resized'),
        default=None,
        help='how a sweep treats ASTs; see elastic-ast evaluate --help; may be given twice',
    )
    parser.add_argument(
        '--out',
        metavar='FOLDER',
        help='where all is kept (default: runs/experiments/NAME_OF_CONFIG)',
    )
    parser.add_argument(
        '--seeds', default='0,1,2', metavar='N,N,...', help='of the runs (default 0,1,2)'
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        metavar='K',
        help='run K at a time, each on its share of the processors',
    )
    options, rest = parser.parse_known_args(argv)
    words = [word for word in rest if not word.startswith('--config.')]
    if len(words) != 1 or words[0].startswith('-'):
        parser.error(
            'give one CONFIG, a file such as configs/fsdd_speakers.py, and not'
            f' {" ".join(words) or "none"}'
        )
    if not all(part.isdecimal() for part in options.seeds.split(',')) or options.jobs < 1:
        parser.error('--seeds must be whole numbers separated by commas, and --jobs at least 1')
    if options.row_budget and not all(
        part.isdecimal() and int(part) for part in options.row_budget.split(',')
    ):
        parser.error(
            f'--row_budget={options.row_budget} must be positive whole numbers separated by commas'
        )
    if options.out and ('://' in options.out or ',' in os.path.abspath(options.out)):
        parser.error(f'--out={options.out} must be a local folder without a comma in its path')
    if bool(options.sweep) == bool(options.over):
        parser.error('give either --sweep or --over')
    if options.beside and options.over:
        parser.error('--beside is for a sweep')
    if options.sweep and (options.vary or options.row_budget):
        parser.error('--vary and --row_budget go with --over')
    options.config = words[0]
    options.seeds = list(dict.fromkeys(map(int, options.seeds.split(','))))
    return options, [
        word.removeprefix('--config.') for word in rest if word.startswith('--config.')
    ]


class Experiment:
    """An experiment on a recipe's data."""

    def __init__(self, options: argparse.Namespace, overrides: Sequence[str]):
        """Finds the models, and checks all their configs.

        Raises:
            ExperimentError, ConfigError: The recipe is not made for this experiment, or a config is
            not possible.
        """
        self._options, self._overrides = options, tuple(overrides)
        self._recipe, path, argument = loading.load_module(options.config)
        if argument:
            raise ExperimentError(
                f'{options.config}: give the file alone, {path}; the experiment chooses its'
                ' variants'
            )
        self._task = Path(path).stem
        self._out = Path(options.out or ROOT / 'runs' / 'experiments' / self._task).absolute()
        self._models = list(variants.of_experiment(self._recipe, path, options, self._overrides))
        self._hows = (options.fixed_length or ['own']) if options.sweep else []
        if options.sweep:
            self._points()
        for model in self._models:
            for seed in options.seeds:
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
        runs, failed = runs_of.LocalRuns(self._options.jobs, self._options.name), 0
        for seed in self._options.seeds:
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
                    f'--config={self._options.config}:{model.variant}',
                    f'--workdir={run.workdir}',
                ]
                options += [f'--config.{text}' for text in self._changed(model, seed)]
                found.append((run, _command('train', *options)))
        return found

    def _tokens(self, model: Model, seed: int) -> int:
        """Of a step."""
        packing = loading.load(
            f'{self._options.config}:{model.variant}', self._changed(model, seed)
        ).packing
        return packing.rows * packing.tokens

    def _evaluation(self, seed: int) -> list[tuple[runs_of.Run, list[str]]]:
        """Of curves that are not there, of models that are trained to the end;

        and of the baseline, which has no seed.
        """
        sweep, found = self._options.sweep, []
        points = self._points() if sweep else ()
        if seed == self._options.seeds[0] and not self._has_baseline():
            folder = self._baseline()
            run = runs_of.Run(
                f'{BASELINE}, {folder.name}',
                folder,
                self._out / 'logs' / f'{BASELINE}-{folder.name}.log',
                (),
            )
            config = f'{self._options.config}:{self._models[0].variant}'
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
        return self._out / BASELINE / (self._options.sweep or 'whole')

    def _has_baseline(self) -> bool:
        """Whether it was measured on these data, by these features."""
        folder, sweep = self._baseline(), self._options.sweep
        if not (
            _measured(folder, sweep, self._points(), 0)
            if sweep
            else (folder / 'eval' / 'metrics.json').exists()
        ):
            return False
        with contextlib.suppress(OSError, ValueError, TypeError):
            values = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
            before = stored.from_json(values)
            used = loading.load(
                f'{self._options.config}:{self._models[0].variant}', self._overrides
            )
            now = loading.absolute_paths(used)
            return (before.data, before.frontend) == (now.data, now.frontend)
        return False

    def _run(self, model: Model, seed: int, what: str) -> runs_of.Run:
        folder = model.folder(self._out, seed)
        log = self._out / 'logs' / f'{folder.parent.name}-{seed}-{what}.log'
        return runs_of.Run(f'{folder.parent.name}, seed {seed}, {what}', folder, log, ())

    def _points(self) -> tuple[int, ...]:
        sweeps = getattr(self._recipe, 'SWEEPS', {})
        if self._options.sweep not in sweeps:
            raise ExperimentError(
                f'{self._options.config}: SWEEPS has no {self._options.sweep!r}, the points of this'
                ' curve'
            )
        return tuple(sorted(set(sweeps[self._options.sweep])))

    def _sweep_options(self, points: Sequence[int]) -> list[str]:
        option = '--points' if self._options.sweep == 'length' else '--shifts'
        return [f'--sweep={self._options.sweep}', f'{option}={",".join(map(str, points))}']

    def _draw(self) -> int:
        """Tables and plots of all seeds, by `elastic-ast compare`."""
        out = self._out / self._options.name
        workdirs: dict[
            str, list[str]
        ] = {}  # over a key, the runs of all its values are of one name
        for model in self._models:
            given = f'--beside={model.name}' if model.beside else model.name
            workdirs.setdefault(given, []).extend(
                str(model.folder(self._out, seed)) for seed in self._options.seeds
            )
        groups = [f'{given}={",".join(its)}' for given, its in workdirs.items()] + [
            f'--beside={BASELINE}={self._baseline()}'
        ]
        if not self._options.sweep:
            return _told(
                _command('compare', *groups, f'--over={self._options.over}', f'--out={out}')
            )
        known = published.DATA_SETS[self._options.sweep]
        failed = 0
        for how in self._hows:
            options = [f'--sweep={self._options.sweep}', f'--fixed_length={how}', f'--out={out}']
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


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

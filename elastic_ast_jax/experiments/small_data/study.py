"""Compare models with baselines on the small-data tasks (`elastic-ast experiment small_data`).

| path below the folder | content |
|---|---|
| `TASK/config.py` | what `elastic-ast configure` chose |
| `TASK/.../` | workdir of each fold or draw; `TASK/baselines/`, `TASK/logs/` |
| `small_data.md`, `small_data.csv` | table of the finished tasks |
| `small_data.json` | what all configs were chosen with |

Nothing is repeated: neither a config, nor a training, an evaluation or a baseline.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from elastic_ast_jax.experiments import cross_validation, sweep
from elastic_ast_jax.experiments.local_runs import LocalRuns, Run, own_command
from elastic_ast_jax.experiments.measured_runs import MeasuredRuns
from elastic_ast_jax.experiments.small_data import study_table
from elastic_ast_jax.experiments.small_data.study_table import Row
from elastic_ast_jax.experiments.small_data.study_tasks import StudyTask
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import pluralize

__all__ = ['Study']

_NAME = 'elastic-ast experiment small_data'
# Exit codes above this are 128 plus the number of a signal.
_SIGNAL_EXIT = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Hold the tasks of a study, and how their models are trained.

    Attributes:
        tasks: The tasks, in the order of the table.
        out: Folder of configs, runs and tables.
        folds: Number of folds of tasks without draws.
        minutes: About how long a training takes at most on two processor cores.
        jobs: Number of runs of a task at a time.
        overrides: `section.key=value` each, of every run.
    """

    tasks: Sequence[StudyTask]
    out: Path
    folds: int
    minutes: float
    jobs: int = 1
    overrides: Sequence[str] = ()

    def work(self) -> int:
        """Train and measure what is missing, task by task, and write the table after each.

        Returns:
            0, or 1 if a task failed, or 128 plus the number of the signal that ended the study.

        Raises:
            UserError: The folder has configs of another length. Nothing was started.
            WriteError: A file cannot be written.
        """
        self._check_minutes()
        failed, lines = [], []
        for task in self.tasks:
            print(f'task: {task.name}', flush=True)
            try:
                code = self._work_on(task)
            except UserError as error:
                Progress().write_line(f'{_NAME}: {task.name}: {error}')
                code = 1
            if code > _SIGNAL_EXIT:
                return code
            failed += [task.name] if code else []
            lines = study_table.write(self._rows(), self.out)
        print('\n'.join(lines))
        if failed:
            print(
                f'{_NAME}: {len(failed)} of {pluralize(len(self.tasks), "task")} failed:'
                f' {", ".join(failed)}. The same command resumes',
                file=sys.stderr,
            )
        return 1 if failed else 0

    def _check_minutes(self) -> None:
        """Check that the configs of the folder were chosen for the same length."""
        file = self.out / 'small_data.json'
        if not file.exists():
            write_text(file, json.dumps({'minutes': self.minutes}) + '\n')
            return
        try:
            minutes = json.loads(file.read_text(encoding='utf-8'))['minutes']
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f'{file}: cannot be read ({error}): give another --out') from error
        if minutes != self.minutes:
            raise UserError(
                f'--minutes={self.minutes:g}: the configs in {self.out} have --minutes={minutes:g}:'
                ' give the same, or another --out'
            )

    def _work_on(self, task: StudyTask) -> int:
        """Train and measure what a task lacks; return the exit code."""
        config = self._config(task)
        if not config.exists() and (code := self._configure(task)):
            return code
        place = sweep.Place(jobs=self.jobs, name=_NAME)
        runs = self._plan(task)
        if not task.draws:
            code = cross_validation.work(runs, self.out / task.name, place)
        else:
            code = runs.train(place) or runs.measure(place)
        if not code:
            study_table.read(task, runs.files())
        return code

    def _config(self, task: StudyTask) -> Path:
        return self.out / task.name / 'config.py'

    def _configure(self, task: StudyTask) -> int:
        """Write the config of a task; return the exit code."""
        command = own_command(
            'configure',
            str(task.manifest),
            f'--out={self._config(task)}',
            f'--minutes={self.minutes:g}',
            *([f'--eval={task.evaluation}'] if task.evaluation else []),
            *([f'--group={task.group}'] if task.group else []),
        )
        folder = self.out / task.name
        run = Run(f'{task.name}, config', folder, folder / 'logs' / 'config.log', ())
        return LocalRuns(1, _NAME).work([run], [command])

    def _plan(self, task: StudyTask) -> MeasuredRuns:
        """Return the folds or the draws of a task whose config exists."""
        config, folder = str(self._config(task)), self.out / task.name
        if not task.draws:
            return cross_validation.plan(config, folder, self.folds, self.overrides)
        return MeasuredRuns(
            config,
            folder,
            [{'data.train': str(path)} for path in task.draws],
            overrides=self.overrides,
            varied_by=task.name,
            unit='draw',
            names=[path.stem for path in task.draws],
        )

    def _rows(self) -> list[Row]:
        """Return the results of the finished tasks, in this call or before."""
        rows = []
        for task in self.tasks:
            if not self._config(task).exists():
                continue
            try:
                runs = self._plan(task)
                if runs.is_complete():
                    rows.append(study_table.read(task, runs.files()))
            except UserError:  # reported where the task runs
                continue
        return rows

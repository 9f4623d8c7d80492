"""List the tasks of a study, and find those that `fetch_small_data` has written."""

import csv
import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from elastic_ast_jax.experiments.small_data.tasks import TASKS
from elastic_ast_jax.utils.errors import UserError

__all__ = ['DIGITS', 'DIGITS_BY_SPEAKER', 'NAMES', 'Draws', 'StudyTask', 'fetched_tasks']


class Draws(NamedTuple):
    """Say how many recordings of a digit are drawn for training, and how often."""

    recordings: int
    draws: int


DIGITS: Mapping[str, Draws] = types.MappingProxyType(
    {f'digits_{count}': Draws(count, 5) for count in (5, 20, 47)} | {'digits_270': Draws(270, 1)}
)
DIGITS_BY_SPEAKER = 'digits_by_speaker'
# All tasks, in the order of the table; those of digits need their recordings.
NAMES = (*TASKS, *DIGITS, DIGITS_BY_SPEAKER)


@dataclasses.dataclass(frozen=True)
class StudyTask:
    """Describe a task whose manifests exist.

    Attributes:
        name: Name of the task and of its folder.
        role: What the task is for.
        clips: Number of clips for training and evaluation.
        classes: Number of classes.
        manifest: The manifest that `configure` reads.
        evaluation: The manifest of the evaluation split. None: folds of `manifest`.
        group: `data.group`.
        draws: Manifests to train with, instead of folds.
    """

    name: str
    role: str
    clips: int
    classes: int
    manifest: Path
    evaluation: Path | None = None
    group: str = ''
    draws: tuple[Path, ...] = ()


def fetched_tasks(folder: Path, names: Sequence[str]) -> list[StudyTask]:
    """Return tasks of a folder.

    Args:
        folder: What `fetch_small_data` has written.
        names: Names of tasks with packages.

    Raises:
        UserError: The folder lacks a task.
    """
    from elastic_ast_jax.experiments.small_data import fetch  # slow to import

    missing = [name for name in names if not fetch.is_complete(TASKS[name], folder)]
    if missing:
        listed = ','.join(missing)
        raise UserError(
            f'{folder}: has no {", ".join(missing)}: run elastic-ast experiment fetch_small_data'
            f' {folder} --tasks={listed}, or name other tasks with --tasks'
        )
    return [_fetched_task(name, folder / name / fetch.MANIFEST) for name in names]


def _fetched_task(name: str, manifest: Path) -> StudyTask:
    with manifest.open(encoding='utf-8', newline='') as file:
        labels = [row['label'] for row in csv.DictReader(file)]
    group = 'column:group' if TASKS[name].has_groups else ''
    return StudyTask(
        name, TASKS[name].role, len(labels), len(set(labels)), manifest.absolute(), group=group
    )

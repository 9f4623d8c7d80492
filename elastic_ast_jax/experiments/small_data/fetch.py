"""Fetch the recordings of the small-data tasks, and write a manifest for each.

| path below the folder | content |
|---|---|
| `downloads/` | packages as downloaded; may be deleted |
| `TASK/clips/PACKAGE/...` | recordings, unchanged |
| `TASK/licenses/PACKAGE/...` | statements of the packages |
| `TASK/manifest.csv` | audio, label, group |
| `TASK/packages.json` | versions, licenses, hashes, removed duplicates |
"""

import csv
import hashlib
import io
import json
import re
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from elastic_ast_jax.audio import reading
from elastic_ast_jax.experiments.small_data.packages import (
    PackageError,
    archived_files,
    download,
)
from elastic_ast_jax.experiments.small_data.tasks import TASKS, Package, Task
from elastic_ast_jax.utils import markdown
from elastic_ast_jax.utils.files import WriteError, write_problem, write_text
from elastic_ast_jax.utils.hashing import text_hash
from elastic_ast_jax.utils.text import join_first, pluralize

MANIFEST, PACKAGES = 'manifest.csv', 'packages.json'
_LICENSES = re.compile(r'usr/share/doc/[^/]+/copyright|package/(?:LICENSE|README)[^/]*|.*/LICENSE')


class Clip(NamedTuple):
    """Describe a recording that a rule selects.

    Attributes:
        path: `PACKAGE/PATH_IN_PACKAGE`.
        label: Class.
        group: What may not be divided.
        sha256: Of its bytes.
    """

    path: str
    label: str
    group: str
    sha256: str


def fetch(folder: Path, names: Sequence[str] = ()) -> None:
    """Fetch tasks that are missing, and print a table of all.

    Args:
        folder: Folder to write.
        names: Tasks to fetch; none for all.

    Raises:
        PackageError: Tasks could not be fetched; the others were.
        WriteError: The folder cannot be written.
    """
    tasks = [TASKS[name] for name in names or TASKS]
    problems = []
    for task in tasks:
        try:
            if not is_complete(task, folder):
                fetch_task(task, folder)
        except PackageError as error:
            problems.append(f'{task.name}: {error}')
        except OSError as error:
            raise WriteError(write_problem(error.filename or folder, error)) from error
    present = [task for task in tasks if is_complete(task, folder)]
    if present:
        print(*table(present, folder), sep='\n')
    if problems:
        raise PackageError(
            f'{pluralize(len(problems), "task")} of {len(tasks)} could not be fetched:\n'
            + '\n'.join(problems)
            + '\nThe same command fetches what is missing.'
        )


def is_complete(task: Task, folder: Path) -> bool:
    """Return whether a folder holds the clips of a task, as listed."""
    try:
        content = json.loads((folder / task.name / PACKAGES).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return False
    if not isinstance(content, dict) or content.get('content') != task.content:
        return False
    return (folder / task.name / MANIFEST).is_file()


def fetch_task(task: Task, folder: Path) -> None:
    """Download the packages of a task, and write its folder.

    Raises:
        PackageError: A package cannot be downloaded or read, or holds other clips than listed.
        OSError: The folder cannot be written.
    """
    archives = [download(package, folder / 'downloads') for package in task.packages]
    with tempfile.TemporaryDirectory(dir=folder, prefix=f'.{task.name}.') as scratch:
        target = Path(scratch, task.name)
        clips = [
            clip
            for package, archive in zip(task.packages, archives, strict=True)
            for clip in unpack(task, package, archive, target)
        ]
        kept, removed = without_duplicates(clips)
        content = content_hash(clips)
        classes = len({clip.label for clip in kept})
        if (content, len(kept), classes) != (task.content, task.clips, task.classes):
            raise PackageError(
                f'{join_first([str(path) for path in archives], 3)} hold other clips than listed:'
                f' {pluralize(len(kept), "clip")} of {classes} classes with content {content}, not'
                f' {task.clips} of {task.classes} with {task.content}; delete them and run again,'
                ' or list them as a new task'
            )
        for path in removed:
            (target / 'clips' / path).unlink()
        write_text(target / MANIFEST, manifest(kept))
        record = _record(task, archives, content, removed)
        write_text(target / PACKAGES, json.dumps(record, indent=1) + '\n')
        if (folder / task.name).exists():
            shutil.rmtree(folder / task.name)
        target.rename(folder / task.name)
    print(f'{task.name}: {pluralize(len(kept), "clip")}, {len(removed)} duplicates removed')


def unpack(task: Task, package: Package, archive: Path, folder: Path) -> list[Clip]:
    """Write the clips of a package and its licenses, and return the clips.

    Raises:
        PackageError: See `archived_files`.
    """
    clips = []

    def select(name: str) -> bool:
        return bool(classify(task, f'{package.name}/{name}') or _LICENSES.fullmatch(name))

    for name, data in archived_files(archive, select):
        path = f'{package.name}/{name}'
        label_group = classify(task, path)
        target = folder / ('clips' if label_group else 'licenses') / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        if label_group:
            clips.append(Clip(path, *label_group, hashlib.sha256(data).hexdigest()))
    return clips


def classify(task: Task, path: str) -> tuple[str, str] | None:
    """Return the class and the group of a path, or None if it is no clip of the task."""
    for rule in task.rules:
        if match := re.fullmatch(rule.pattern, path):
            return match.expand(rule.label), match.expand(rule.group)
    return None


def content_hash(clips: Iterable[Clip]) -> str:
    """Return the SHA-256 of sorted paths and hashes, by which a changed package is noticed."""
    return text_hash(''.join(f'{clip.path}\0{clip.sha256}\n' for clip in sorted(clips)))


def without_duplicates(clips: Iterable[Clip]) -> tuple[list[Clip], list[str]]:
    """Return the clips by path without equal ones, and the paths that were removed.

    Of equal clips of one class the first path is kept. Equal clips of several classes are all
    removed, since their class is unknown.
    """
    equal: dict[str, list[Clip]] = {}
    for clip in sorted(clips):
        equal.setdefault(clip.sha256, []).append(clip)
    kept, removed = [], []
    for copies in equal.values():
        first = copies[:1] if len({clip.label for clip in copies}) == 1 else []
        kept += first
        removed += [clip.path for clip in copies[len(first) :]]
    return sorted(kept), sorted(removed)


def manifest(clips: Iterable[Clip]) -> str:
    """Return a manifest as CSV, for `data.source=manifest`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(('audio', 'label', 'group'))
    writer.writerows((f'clips/{clip.path}', clip.label, clip.group) for clip in clips)
    return text.getvalue()


def read_manifest(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a task's manifest."""
    with (folder / MANIFEST).open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def table(tasks: Iterable[Task], folder: Path) -> list[str]:
    """Return a table of what a folder holds of tasks, from the headers of the clips."""
    head = (
        'task',
        'packages',
        'license',
        'clips',
        'classes',
        'clips of a class',
        'seconds: min / median / max',
        'sample rates',
        'groups',
        'group',
        'role',
    )
    rows = [_row(task, folder / task.name) for task in tasks]
    return markdown.table(head, rows, 'lllrrrrlrll')


def _row(task: Task, folder: Path) -> list[str]:
    rows = read_manifest(folder)
    headers = [reading.read_header(folder / row['audio']) for row in rows]
    classes = Counter(row['label'] for row in rows)
    seconds = [header.seconds for header in headers]
    rates = Counter(header.sample_rate for header in headers)
    names = [package.name for package in task.packages]
    return [
        task.name,
        join_first(names, 2),
        join_first(sorted({package.license for package in task.packages})),
        str(len(rows)),
        str(len(classes)),
        f'{min(classes.values())} to {max(classes.values())}',
        f'{min(seconds):.2f} / {statistics.median(seconds):.2f} / {max(seconds):.2f}',
        join_first([str(rate) for rate, _ in rates.most_common()], 4),
        str(len({row['group'] for row in rows})),
        task.group,
        task.role,
    ]


def _record(
    task: Task, archives: Sequence[Path], content: str, removed: Sequence[str]
) -> dict[str, Any]:
    """Return what is stored beside the manifest."""
    return {
        'content': content,
        'packages': [
            {
                'ecosystem': package.ecosystem,
                'name': package.name,
                'version': package.version,
                'license': package.license,
                'sha256': _file_hash(archive),
            }
            for package, archive in zip(task.packages, archives, strict=True)
        ],
        'removed_duplicates': list(removed),
    }


def _file_hash(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()

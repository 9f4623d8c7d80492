"""Read the small files of a workdir, which a stranger may have written.

A file is read only if it is a regular file of a sensible size that no link leads out of the
workdir.
"""

import difflib
from pathlib import Path
from typing import Any

from elastic_ast_jax.utils import bounded, gcs
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.gcs import BucketPath

# The file that Orbax writes into a folder in a bucket when it is complete.
COMPLETE = 'commit_success.txt'
# The most bytes of a JSON file: the names of a million classes, the rows of a million epochs.
_LIMIT = 16 * bounded.MEBIBYTE
# Advice for a damaged file of a run.
RESTORE = 'restore it or train again'


class WorkdirError(UserError):
    """A workdir that cannot be used; names the path, the fault and the remedy."""


def read_text(folder: Path | BucketPath, file: Path | BucketPath) -> str:
    """Return the text of a small file of a workdir.

    Args:
        folder: The workdir.
        file: The file, in the workdir or one of its folders.

    Raises:
        OSError: It is missing or unreadable, too large, no regular file, or a link out of the
            workdir.
        UnicodeDecodeError: It is not UTF-8.
    """
    bounded.check_inside(file, folder)
    return bounded.read_text(file, _LIMIT)


def read_object(folder: Path | BucketPath, name: str, advice: str = RESTORE) -> dict[str, Any]:
    """Return the JSON object in a file of a workdir.

    Args:
        folder: The workdir.
        name: Name of the file.
        advice: What to do if its content is damaged.

    Raises:
        WorkdirError: The workdir or the file is missing, or cannot be used.
    """
    file = folder / name
    try:
        if not folder.is_dir():
            names = difflib.get_close_matches(folder.name, _siblings(folder), 1)
            hint = f'; did you mean {folder.parent / names[0]}?' if names else ''
            raise WorkdirError(f'{folder}: there is no such workdir{hint}')
        text = read_text(folder, file)
    except FileNotFoundError:
        raise WorkdirError(
            f'{folder}: is not a workdir of `elastic-ast train`, or its training never'
            f' began: {name} is missing'
        ) from None
    except OSError as error:
        failure = WorkdirError(
            f'{file}: cannot be read ({error.strerror or error}); make it readable, or train again'
        )
        raise gcs.with_exit_code(failure, file, error) from error
    except UnicodeDecodeError as error:
        raise WorkdirError(f'{file}: cannot be read ({error}); {advice}') from error
    try:
        values = bounded.parse_json(text)
    except ValueError as error:
        raise WorkdirError(f'{file}: cannot be read ({error}); {advice}') from error
    if not isinstance(values, dict):
        raise WorkdirError(f'{file}: must hold a JSON object; {advice}')
    return values


def leads_nowhere(path: Path | BucketPath) -> bool:
    """Return whether a path is a link to something that does not exist."""
    return not isinstance(path, BucketPath) and path.is_symlink() and not path.exists()


def entry(values: dict[str, Any], file: Path | BucketPath, key: str) -> Any:
    """Return an entry of the object in a file.

    Raises:
        WorkdirError: It is missing.
    """
    if key not in values:
        raise WorkdirError(f'{file}: has no entry {key!r}; {RESTORE}')
    return values[key]


def _siblings(path: Path | BucketPath) -> list[str]:
    if isinstance(path, BucketPath):  # a check that each is a folder would take long
        return [item.name for item in path.parent.iterdir()]
    return (
        [item.name for item in path.parent.iterdir() if item.is_dir()]
        if path.parent.is_dir()
        else []
    )

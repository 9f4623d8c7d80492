"""Read headers of many recordings, cached beside the data.

The cache saves opening every file at every start. An entry is valid for one size and modification
time of the file, so changed files are read again. Odd files are read again too, so that each run
warns of them. A cache that cannot be used costs time, never correctness.
"""

import hashlib
import itertools
import logging
import os
import secrets
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from elastic_ast_jax.audio import reading
from elastic_ast_jax.audio.reading import AudioError, Header
from elastic_ast_jax.utils import bounded
from elastic_ast_jax.utils.text import shorten

__all__ = ['cache_path', 'format_problems', 'read_headers', 'replace_cache']

_FILE = '.elastic-ast-headers.npz'
_VERSION = 3  # 2 had the lengths that headers note, also where these are wrong
_THREADS = 8
_CHUNK = 64  # files a thread takes at a time
_LISTED = 10
_LONGEST = 1000  # characters of a problem that is listed

_Entry = tuple[int, int, int, int, int]  # size, mtime_ns, frames, rate, channels


def read_headers(
    paths: Sequence[str | os.PathLike], cache: Path | None
) -> list[Header | AudioError]:
    """Return headers of recordings, in order, from the cache or from the files.

    Headers from files are added to the cache.

    Args:
        paths: Recordings.
        cache: File of the cache, see `cache_path`. None: no cache.

    Returns:
        For each recording its header, or the error that explains why it cannot be used.
    """
    # Absolute, but not normalised: `link/../a.wav` need not be `a.wav`.
    names = [os.path.join(os.getcwd(), path) for path in paths]
    cached = {} if cache is None else _load(cache)
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        read = pool.map(lambda chunk: [_read_header(name, cached) for name in chunk], chunks)
        results = list(itertools.chain.from_iterable(read))
    fresh = {name: entry for name, (_, entry) in zip(names, results, strict=True) if entry}
    if cache is not None and fresh:
        _save(cache, cached | fresh)
    return [header for header, _ in results]


def cache_path(folder: str | os.PathLike, name: str = _FILE) -> Path | None:
    """Return the cache of the data in or below a folder, or None if nothing can be written.

    The cache lies in the folder itself under `name` if the folder is writable, so that other users
    of the data find it. Its mode must allow writing too, since root may write anywhere. Otherwise
    the cache lies under `${XDG_CACHE_HOME:-~/.cache}/elastic-ast/headers`.
    """
    folder = os.path.abspath(folder)
    if (
        os.path.isdir(folder)
        and os.access(folder, os.W_OK | os.X_OK)
        and os.stat(folder).st_mode & stat.S_IWUSR
    ):
        return Path(folder, name)
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    caches = Path(base, 'elastic-ast', 'headers')
    if not caches.is_absolute():  # without a home folder
        return None
    try:
        caches.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(caches, os.W_OK | os.X_OK):
        return None
    cached = folder if name == _FILE else os.path.join(folder, name)
    digest = hashlib.sha256(os.fsencode(cached)).hexdigest()
    return caches / f'{digest}{os.path.splitext(name)[1]}'


def replace_cache(cache: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Replace a cache by the output of `write`, in one step, so that no reader sees half of it.

    A failure is a warning.
    """
    # Not tempfile: its files are readable by their owner alone, and a cache beside shared data must
    # be readable by everyone.
    temporary = cache.with_name(f'{cache.name}.{secrets.token_hex(8)}.tmp')
    try:
        with open(temporary, 'xb') as file:
            write(file)
        os.replace(temporary, cache)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        logging.warning(
            '%s: the header cache cannot be written (%s); the headers will be read again next time',
            cache,
            error,
        )


def format_problems(problems: Sequence[str]) -> str:
    """Return the first ten problems, one a line, and the number of the others.

    Long problems, such as those of absurd names, are shortened in their middle.
    """
    lines = [f'  {shorten(problem, _LONGEST)}' for problem in problems[:_LISTED]]
    if len(problems) > _LISTED:
        lines.append(f'  and {len(problems) - _LISTED} more')
    return '\n'.join(lines)


def _read_header(name: str, cached: dict[str, _Entry]) -> tuple[Header | AudioError, _Entry | None]:
    """Return header or error of a recording, and its entry if the cache does not have it."""
    try:
        # Before the file is opened: after a later change the entry is out of date, not wrong.
        status = os.stat(name)
        size, mtime_ns = status.st_size, status.st_mtime_ns
        entry = cached.get(name)
        if entry and entry[:2] == (size, mtime_ns):
            return Header(*entry[2:]), None
    except (OSError, ValueError):
        pass  # opening the file reports the problem
    try:
        header = reading.read_header(name)
    except AudioError as error:
        return error, None
    if header.odd:  # read again at the next start, to warn again
        return header, None
    return header, (size, mtime_ns, header.frames, header.sample_rate, header.channels)


def _load(cache: Path) -> dict[str, _Entry]:
    try:
        bounded.check_regular(cache)
        with np.load(cache, allow_pickle=False) as stored:
            version, names, numbers = (stored[key] for key in ('version', 'names', 'numbers'))
        names = names.tobytes().split(b'\0')[:-1]
        if (
            int(version) != _VERSION
            or numbers.dtype != np.int64
            or numbers.shape != (len(names), 5)
        ):
            raise ValueError(f'it is not a header cache of version {_VERSION}')
        if (numbers[:, 2:] < 1).any():
            raise ValueError('it has a length, rate or number of channels below 1')
    except FileNotFoundError:
        return {}
    # Damaged archives raise nearly anything, and the files hold the same values.
    except Exception as error:
        logging.warning(
            '%s: the header cache cannot be used (%s); headers are read again and it is rewritten',
            cache,
            error,
        )
        return {}
    return dict(zip(map(os.fsdecode, names), map(tuple, numbers.tolist()), strict=True))


def _save(cache: Path, entries: dict[str, _Entry]) -> None:
    names = b''.join(os.fsencode(name) + b'\0' for name in entries)  # no path has a zero byte
    replace_cache(
        cache,
        lambda file: np.savez(
            file,
            version=_VERSION,
            names=np.frombuffer(names, np.uint8),
            numbers=np.array(list(entries.values()), np.int64),
        ),
    )

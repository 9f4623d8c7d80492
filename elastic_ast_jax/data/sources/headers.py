"""Headers of many recordings, remembered beside the data.

The cache saves opening every file at every start. An entry holds as long as the file's size and
modification time do, so changed data are read again; a cache that cannot be used costs time, never
correctness.
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

__all__ = ['cache_path', 'format_problems', 'read_headers', 'replace_cache']

_FILE = '.elastic-ast-headers.npz'
_VERSION = 2
_THREADS = 8
_CHUNK = 64  # files a thread takes at a time
_LISTED = 10

_Entry = tuple[int, int, int, int, int]  # size, mtime_ns, frames, rate, channels


def read_headers(
    paths: Sequence[str | os.PathLike], cache: Path | None
) -> list[Header | AudioError]:
    """Headers of recordings, in order; what the cache does not know is read from the files and
    added to it.

    Args:
        paths: Recordings.
        cache: File of the cache, see `cache_path`; None goes without.

    Returns:
        For each recording its header, or the error that says why it cannot be used.
    """
    # Absolute, but not normalised: `link/../a.wav` need not be `a.wav`.
    names = [os.path.join(os.getcwd(), path) for path in paths]
    known = {} if cache is None else _load(cache)
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        looked = pool.map(lambda chunk: [_look(name, known) for name in chunk], chunks)
        results = list(itertools.chain.from_iterable(looked))
    fresh = {name: entry for name, (_, entry) in zip(names, results, strict=True) if entry}
    if cache is not None and fresh:
        _save(cache, known | fresh)
    return [header for header, _ in results]


def cache_path(beside: str | os.PathLike, name: str = _FILE) -> Path | None:
    """Where what is known about the data in or below the folder `beside` is remembered; None if
    nothing can be written.

    In the folder itself under `name` if it is writable (marked so, too: root may write anywhere),
    so that whoever uses the data next finds it; otherwise under
    `${XDG_CACHE_HOME:-~/.cache}/elastic-ast/headers`.
    """
    beside = os.path.abspath(beside)
    if (
        os.path.isdir(beside)
        and os.access(beside, os.W_OK | os.X_OK)
        and os.stat(beside).st_mode & stat.S_IWUSR
    ):
        return Path(beside, name)
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    folder = Path(base, 'elastic-ast', 'headers')
    if (
        not folder.is_absolute()
    ):  # no home folder; a path relative to nowhere in particular is no place for a cache
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    place = beside if name == _FILE else os.path.join(beside, name)
    return folder / f'{hashlib.sha256(os.fsencode(place)).hexdigest()}{os.path.splitext(name)[1]}'


def replace_cache(cache: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Replaces a cache by what `write` writes, in one step, so that no reader sees half of it;

    a failure is a warning.
    """
    # Not tempfile: its files are for their owner alone, and a cache beside shared data is for
    # everyone.
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
    """The first ten problems, one a line, and how many more there are."""
    lines = [f'  {problem}' for problem in problems[:_LISTED]]
    if len(problems) > _LISTED:
        lines.append(f'  and {len(problems) - _LISTED} more')
    return '\n'.join(lines)


def _look(name: str, known: dict[str, _Entry]) -> tuple[Header | AudioError, _Entry | None]:
    """Header or error of one recording, and its entry if the cache does not have it."""
    try:
        # Before the file is opened: if it is written meanwhile, the entry is out of date rather
        # than wrong.
        found = os.stat(name)
        stamp = (found.st_size, found.st_mtime_ns)
        entry = known.get(name)
        if entry and entry[:2] == stamp:
            return Header(*entry[2:]), None
    except (OSError, ValueError):
        pass  # opening it will say what is wrong
    try:
        header = reading.read_header(name)
    except AudioError as error:
        return error, None
    return header, (*stamp, header.frames, header.sample_rate, header.channels)


def _load(cache: Path) -> dict[str, _Entry]:
    try:
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
    except (
        Exception
    ) as error:  # damaged archives raise nearly anything, and the files themselves know better
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

"""Warn of recordings that are odd and read all the same: once a file, and summed up once a run."""

import itertools
import logging
import threading

from elastic_ast_jax.utils.text import join_first, pluralize, printable

__all__ = ['log_summary', 'report']

# Recordings of a kind that get a warning of their own, and those that the summary names.
_WARNED = 10
_NAMED = 3

_lock = threading.Lock()
# Hashes of the names of the recordings of each kind, and the first names. A hash needs less memory.
_recordings: dict[str, tuple[set[int], list[str]]] = {}


def report(name: str, kind: str, message: str = '', *, warned: int = _WARNED) -> None:
    """Warn of an oddity of a recording, unless the same kind was reported for it before.

    Args:
        name: Path or name of the recording.
        kind: The oddity, equal for all recordings of its kind, for the summary.
        message: The oddity of this recording, and what was done; `kind` if empty.
        warned: Recordings of the kind that get a warning of their own. `log_summary` counts all.
    """
    with _lock:
        hashes, names = _recordings.setdefault(kind, (set(), []))
        count = len(hashes)
        hashes.add(hash(name))
        if len(hashes) == count:
            return
        if count < _NAMED:
            names.append(name)
    if count < warned:
        logging.warning('%s: %s', printable(name), printable(message or kind))


def log_summary() -> None:
    """Warn once of each kind of oddity that several recordings have; then forget all."""
    with _lock:
        kinds = {kind: (len(hashes), names) for kind, (hashes, names) in _recordings.items()}
        _recordings.clear()
    for kind, (count, names) in kinds.items():
        if count > 1:
            shown = [*map(printable, names), *itertools.repeat('', count - len(names))]
            logging.warning(
                '%s: %s (%s)', pluralize(count, 'recording'), kind, join_first(shown, _NAMED)
            )

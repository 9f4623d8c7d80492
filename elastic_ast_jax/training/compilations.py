"""Count how often functions are compiled."""

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.monitoring

# The event that JAX records for each program that it compiles, or reads from its cache.
_EVENT = '/jax/core/compile/backend_compile_duration'


class CompilationCounter:
    """Counts compilations by the name of the jitted function, between enter and exit.

    Example:
        >>> double = jax.jit(lambda x: 2 * x)
        >>> with CompilationCounter() as compilations:
        ...     _ = double(1.0), double(2.0), double(3)
        >>> compilations.count(double)
        2
    """

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> 'CompilationCounter':
        jax.monitoring.register_event_duration_secs_listener(self._record)
        return self

    def __exit__(self, *exception: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._record)

    def count(self, function: Callable) -> int:
        """Return the number of compilations of a jitted function, and of others of its name."""
        return self._counts[f'jit({function.__name__})']

    def _record(self, event: str, duration_secs: float, **details: str | int) -> None:
        if event == _EVENT:
            self._counts[str(details.get('fun_name'))] += 1

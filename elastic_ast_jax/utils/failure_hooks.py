"""Run functions after a command has failed."""

from collections.abc import Callable

__all__ = ['on_failure', 'run_failure_hooks']

_hooks: list[Callable[[int], None]] = []


def on_failure(hook: Callable[[int], None]) -> None:
    """Register a function of the exit code; it runs once if this command ends with an error."""
    _hooks.append(hook)


def run_failure_hooks(code: int) -> None:
    """Run the registered functions, and forget them, unless the command succeeded.

    Args:
        code: The exit code of the command.
    """
    hooks = _hooks.copy()
    _hooks.clear()
    if code:
        for hook in hooks:
            hook(code)

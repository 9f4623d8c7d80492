"""`python -m elastic_ast_jax`, and the program `elastic-ast`."""

# It is built in. The import of `signal` takes milliseconds, in which Ctrl-C may arrive.
import _signal  # pyright: ignore[reportMissingImports]
import os
import sys


def main() -> int:
    """Run the command line, whose imports Ctrl-C may interrupt too, and return its exit code."""
    before = _signal.getsignal(_signal.SIGINT)
    if before is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, lambda *_: os._exit(130))
    from elastic_ast_jax.utils.interrupts import interrupts_end_at_once, interrupts_end_imports

    if before is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, before)
    with interrupts_end_imports():
        from elastic_ast_jax.cli.main import main as run_command

        code = run_command()
    interrupts_end_at_once()  # while Python ends
    return code


if __name__ == '__main__':
    sys.exit(main())

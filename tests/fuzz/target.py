"""Define what a fuzz target is: how to make an input from (seed, index), and how to use it."""

import pathlib
import random

from elastic_ast_jax.utils.errors import UserError

__all__ = ['Target', 'random_of']


def random_of(seed: int, index: int) -> random.Random:
    """Return the random numbers of one input, the same on every machine."""
    return random.Random(f'{seed}/{index}')


class Target:
    """Make inputs and use them, in a child process that handles many.

    A subclass overrides `make` and `use`, and `prepare` for whatever is slow: imports, recordings
    to damage, a trained model. The class must be importable by name
    (`tests.fuzz.audio:AudioFiles`), and it is built without arguments.

    Attributes:
        errors: Exceptions that are a proper answer to a wrong input.
        seconds: Longest time of one input.
        mebibytes: Most memory of one input above what the child held before it.
        inputs_per_child: A child is replaced after this many, so that no leak adds up.
    """

    errors: tuple[type[BaseException], ...] = (UserError,)
    seconds: float = 10.0
    mebibytes: float = 1024.0
    inputs_per_child: int = 2000

    def prepare(self, folder: pathlib.Path) -> None:
        """Do once, before the first input; `folder` is the child's own, and empty."""

    def make(self, seed: int, index: int, folder: pathlib.Path) -> pathlib.Path:
        """Write the input of an index into an empty folder and return its path.

        The result depends on seed and index alone. Time and memory of this are not measured.
        """
        raise NotImplementedError

    def use(self, path: pathlib.Path) -> str:
        """Give the input to the code under test and describe the result in a few words.

        Raises:
            UserError: The code refuses the input.
            AssertionError: The result is wrong.
        """
        raise NotImplementedError

    def problem_of(self, error: BaseException, path: pathlib.Path) -> str | None:
        """Return what is wrong with the message of a named error, or None."""
        message = str(error)
        if not message.strip():
            return 'the error has no message'
        if str(path) not in message:
            return f'the error does not name the file: {message[:300]}'
        return f'the message has {len(message)} characters' if len(message) > 2000 else None

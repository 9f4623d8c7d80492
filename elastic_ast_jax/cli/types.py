"""Parse the values of the command line: types for `argparse` whose errors say what is allowed."""

import argparse
import math
import os
from collections.abc import Callable

__all__ = [
    'comma_separated_ints',
    'comma_separated_names',
    'comma_separated_numbers',
    'flops',
    'local_path',
    'minutes',
    'named_workdirs',
    'non_negative_int',
    'path',
    'positive_int',
    'positive_share',
    'seconds',
    'separator',
    'share',
]

_WEEK = 7 * 24 * 60


def positive_int(text: str) -> int:
    """Return a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no positive whole number')
    return int(text)


def non_negative_int(text: str) -> int:
    """Return a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number from 0')
    return int(text)


def named_workdirs(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the name of a model, empty if there is none, and the workdirs of its runs."""
    # The workdirs of a sweep contain '=' as well.
    if os.path.isdir(text) or text.startswith('gs://') or (text and '=' not in text):
        return '', (text,)
    name, _, listed = text.partition('=')
    workdirs = tuple(listed.split(','))
    if not (name and all(workdirs)):
        raise argparse.ArgumentTypeError(
            f'{text!r} must be a workdir, or a name and workdirs: NAME=W,W,W'
        )
    return name, workdirs


def comma_separated_names(text: str) -> tuple[str, ...]:
    """Return names that are separated by commas."""
    names = tuple(text.split(','))
    if not all(names):
        raise argparse.ArgumentTypeError(f'{text!r} must be names separated by commas')
    return names


def comma_separated_ints(lowest: int) -> Callable[[str], tuple[int, ...]]:
    """Return the type of distinct whole numbers, separated by commas, of at least `lowest`."""

    def parse(text: str) -> tuple[int, ...]:
        parts = text.split(',')
        if not all(part.isdecimal() and int(part) >= lowest for part in parts):
            raise argparse.ArgumentTypeError(
                f'{text!r} must be whole numbers from {lowest}, separated by commas'
            )
        return tuple(dict.fromkeys(map(int, parts)))

    return parse


def comma_separated_numbers(text: str) -> tuple[float, ...]:
    """Return positive numbers that are separated by commas."""
    try:
        numbers = tuple(float(part) for part in text.split(','))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise argparse.ArgumentTypeError(f'{text!r} must be positive numbers separated by commas')
    return numbers


def _number_type(is_allowed: Callable[[float], bool], description: str) -> Callable[[str], float]:
    """Return the type of a number; `description` says which numbers are allowed."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan  # no comparison allows it
        if not is_allowed(number):
            raise argparse.ArgumentTypeError(f'{text!r} must be {description}')
        return number

    return parse


seconds = _number_type(lambda number: 0 < number < math.inf, 'a positive number of seconds')
minutes = _number_type(
    lambda number: 0 < number <= _WEEK, f'a positive number of minutes, at most {_WEEK} (a week)'
)
flops = _number_type(
    lambda number: 0 < number < math.inf, 'a positive number of operations a second'
)
share = _number_type(lambda number: 0 <= number < 1, 'a number from 0 to below 1')
positive_share = _number_type(lambda number: 0 < number <= 1, 'a number above 0 and at most 1')


def separator(text: str) -> str:
    """Return a text that separates others, which is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("'' separates nothing: give a character, such as ','")
    return text


def path(text: str) -> str:
    """Return a path, which may be in a bucket."""
    if not text:
        raise argparse.ArgumentTypeError('a path is missing')
    return text


def local_path(text: str) -> str:
    """Return a path that is not in a bucket."""
    if '://' in text:
        raise argparse.ArgumentTypeError(
            f'{text!r} must be a local path: only a workdir may be in a bucket'
        )
    return path(text)

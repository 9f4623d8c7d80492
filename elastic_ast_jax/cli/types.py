"""What the words of a command line mean:

types for `argparse`, each of which tells what is allowed.
"""

import argparse
import math
import os
from collections.abc import Callable


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no positive whole number')
    return int(text)


def runs(text: str) -> tuple[str, tuple[str, ...]]:
    """Name of a model, empty for none, and workdirs."""
    # Names of sweeps hold the sign, too.
    if os.path.isdir(text) or text.startswith('gs://') or (text and '=' not in text):
        return '', (text,)
    name, _, listed = text.partition('=')
    workdirs = tuple(listed.split(','))
    if not (name and all(workdirs)):
        raise argparse.ArgumentTypeError(
            f'{text!r} must be a workdir, or a name and workdirs: NAME=W,W,W'
        )
    return name, workdirs


def whole(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number from 0')
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    if not all(text.split(',')):
        raise argparse.ArgumentTypeError(f'{text!r} must be names separated by commas')
    return tuple(text.split(','))


def numbers(text: str) -> tuple[float, ...]:
    """Positive numbers separated by commas."""
    try:
        values = tuple(float(part) for part in text.split(','))
    except ValueError:
        values = ()
    if not values or not all(0 < value < float('inf') for value in values):
        raise argparse.ArgumentTypeError(f'{text!r} must be positive numbers separated by commas')
    return values


def number(allowed: Callable[[float], bool], what: str) -> Callable[[str], float]:
    """The type of a number that is allowed, which `what` says in words."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan  # which no comparison allows
        if not allowed(value):
            raise argparse.ArgumentTypeError(f'{text!r} must be {what}')
        return value

    return parse


seconds = number(lambda value: 0 < value < math.inf, 'a positive number of seconds')
flops = number(lambda value: 0 < value < math.inf, 'a positive number of operations a second')
share = number(lambda value: 0 <= value < 1, 'a number from 0 to below 1')
positive_share = number(lambda value: 0 < value <= 1, 'a number above 0 and at most 1')


def path(text: str) -> str:
    """A path, here or in a bucket."""
    if not text:
        raise argparse.ArgumentTypeError('a path is missing')
    return text


def local(text: str) -> str:
    """A path that is not in a bucket."""
    if '://' in text:
        raise argparse.ArgumentTypeError(
            f'{text!r} must be a local path: only a workdir may be in a bucket'
        )
    return path(text)

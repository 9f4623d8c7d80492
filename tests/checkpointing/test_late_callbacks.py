"""Test which errors are printed while a checkpoint is written."""

import sys
import types
from typing import Any

import pytest

from elastic_ast_jax.checkpointing import late_callbacks


@pytest.fixture
def printed(monkeypatch):
    """The errors that reach the hook of the interpreter."""
    errors = []
    monkeypatch.setattr(sys, 'unraisablehook', lambda unraisable: errors.append(unraisable))
    return errors


def test_only_callbacks_of_a_closed_loop_are_silent(printed):
    before = sys.unraisablehook
    with late_callbacks.silenced():
        for error in (RuntimeError('Event loop is closed'), RuntimeError('other'), OSError('x')):
            unraisable: Any = types.SimpleNamespace(exc_type=type(error), exc_value=error)
            sys.unraisablehook(unraisable)
    assert [str(unraisable.exc_value) for unraisable in printed] == ['other', 'x']
    assert sys.unraisablehook is before


def test_a_hook_that_was_set_meanwhile_stays(printed):
    with late_callbacks.silenced():
        sys.unraisablehook = printed.append
    assert sys.unraisablehook == printed.append

"""Fixtures of the tests of the launch scripts."""

import pytest

from tests.fakes.machine import Machine


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)

"""Share fixtures among the tests of experiments."""

import pytest

from tests.fakes.machine import Machine


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)

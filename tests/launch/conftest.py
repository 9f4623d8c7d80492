"""What the tests of the launch scripts share."""

import pytest

from tests.fakes.machine import Machine


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)

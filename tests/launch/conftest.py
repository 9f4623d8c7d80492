"""What the tests of the launch scripts share."""

import pytest

from tests.launch.machine import Machine


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)

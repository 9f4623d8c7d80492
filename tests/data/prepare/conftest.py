"""The commands are run as the end-to-end tests run them."""

from tests.end_to_end.conftest import command, environment, python  # noqa: F401

"""Where pytest begins. Beside tests/integration/conftest.py in tests/unit, one would take the other's name."""

from read_once import folder_of_run, parsers, read_once  # noqa: F401 - the last two for the unit tests

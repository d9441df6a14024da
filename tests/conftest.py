"""Where pytest begins. Beside tests/integration/conftest.py in tests/unit, one would take the other's name."""

from read_once import parsers, read_once  # noqa: F401 - for the unit tests

"""Where pytest begins."""

from read_once import read_once  # noqa: F401 - for all tests

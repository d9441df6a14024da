"""Where pytest begins."""

from parsed_locks import parsed_locks  # noqa: F401 - for all tests

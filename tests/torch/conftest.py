"""Where pytest begins: the suite's hooks and fixtures are in torchsuite."""

pytest_plugins = ["torchsuite.fixtures"]

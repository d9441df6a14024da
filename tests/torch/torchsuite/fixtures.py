"""Starts the suite's plugin, and what checks are given."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from torchsuite import expect
from torchsuite.expect import Expectation
from torchsuite.imports import Imports, ending
from torchsuite.plugin import SUITE, Plugin, Suite
from torchsuite.prefix import Prefix
from torchsuite.stream import Stream
from torchsuite.tiers import Measure


def pytest_configure(config: pytest.Config) -> None:
    try:
        expectation = expect.load()
    except KeyError as missing:
        raise pytest.UsageError(f"{missing} is missing: `torchlocks verify` runs this suite") from None
    suite = Suite(
        expectation=expectation,
        prefix=Prefix(expectation.prefix),
        stream=Stream(expectation.events),
        imports=Imports(expectation.events.parent),
    )
    config.stash[SUITE] = suite
    config.pluginmanager.register(Plugin(suite), "torchsuite")


@pytest.fixture(scope="session")
def expectation(pytestconfig: pytest.Config) -> Expectation:
    return pytestconfig.stash[SUITE].expectation


@pytest.fixture(scope="session")
def prefix(pytestconfig: pytest.Config) -> Prefix:
    return pytestconfig.stash[SUITE].prefix


@pytest.fixture(scope="session")
def imports(pytestconfig: pytest.Config) -> Imports:
    """What fresh processes saw when they imported torch, in both orders."""
    return pytestconfig.stash[SUITE].imports


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """Record a measured value beside the check's outcome: a number, a string, or a list of them."""

    def record(name: str, value: object) -> None:
        request.node.user_properties.append((name, value))

    return record


@pytest.fixture
def facts(pytestconfig: pytest.Config) -> Callable[[dict[str, object]], None]:
    """Tell the tool what the environment says of itself."""
    return lambda values: pytestconfig.stash[SUITE].stream.emit("facts", facts=values)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for computations that are too small to share, and would mostly wait on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """Run a script in a fresh, sealed process of this Python and give back its output; fail with its errors."""

    def run(source: str, *arguments: str, timeout: float = 50.0) -> str:
        script = tmp_path / f"script-{len(list(tmp_path.iterdir()))}.py"
        script.write_text(source, encoding="utf-8")
        command = [sys.executable, "-I", os.fspath(script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"{ending(done.returncode)}:\n{done.stderr}"
        return done.stdout

    return run

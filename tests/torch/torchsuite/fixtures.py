"""Starts the suite's plugin, and what checks are given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from torchsuite import expect, usable
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
def within_bounds(measure: Measure) -> Callable[[dict[str, float]], None]:
    """Record ratios of error to bound, and fail where one is above 1."""

    def require(ratios: dict[str, float]) -> None:
        for name, ratio in ratios.items():
            measure(name, ratio)
        broken = {name: ratio for name, ratio in ratios.items() if not ratio <= 1}
        shown = ", ".join(f"{name} is wrong by {ratio:.3g} times what theory allows" for name, ratio in broken.items())
        assert not broken, shown

    return require


@pytest.fixture
def facts(pytestconfig: pytest.Config) -> Callable[[dict[str, object]], None]:
    """Send what the environment reports to the tool."""
    return lambda values: pytestconfig.stash[SUITE].stream.emit("facts", facts=values)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for computations that are too small to share, and would mostly wait on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest, expectation: Expectation) -> Iterator[None]:
    """As many threads as cores are left beside the other processes: more would wait for each other."""
    torch = sys.modules.get("torch")
    # What threads there are without a limit is for the checks of threads.
    if expectation.threads is None or torch is None or request.path.name == "test_cpu_threads.py":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(expectation.threads)
    yield
    torch.set_num_threads(before)


#: The check after which every CUDA call of this process failed.
_LOST: list[str] = []


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The GPU to compute on, as a torch.device; without one that can be used, the check is not run.

    That there is none is reported by `test_the_gpu_is_used`. A kernel that fails takes the process's CUDA with it:
    the check that launched it is the one that fails.
    """
    import torch

    if why := usable.obstacle(torch):
        pytest.skip(why)
    if _LOST:
        pytest.skip(f"not run: CUDA has failed in this process since {_LOST[0]}")
    torch.cuda.synchronize()
    yield torch.device("cuda", torch.cuda.current_device())
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        _LOST.append(request.node.name)
        raise


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


def unquoted(prefix: str) -> str | None:
    """Return why nothing can be compiled against torch in this prefix; None where it can.

    torch joins the linker's command line without quotes around the paths of its own libraries and of Python's.
    """
    if sys.platform == "win32" or " " not in prefix:
        return None
    return f"torch passes the path of the environment to the linker without quotes, and it has a space: {prefix}"


@pytest.fixture
def compiler(measure: Measure) -> str:
    """The host's C++ compiler. Without one, nothing is proven of torch.compile, or where the prefix has a space."""
    if reason := unquoted(sys.prefix):
        pytest.skip(reason)
    names = (os.environ.get("CXX"), "cl") if sys.platform == "win32" else (os.environ.get("CXX"), "g++", "clang++")
    found = next((found for name in names if name and (found := shutil.which(name))), None)
    if found is None:
        pytest.skip("the host has no C++ compiler")
    measure("compiler", found)
    return found

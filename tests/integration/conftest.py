"""What the integration tests share: a CPU environment of their own, and quick copies of the checkout."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from built_wheel import installed, source, tools, wheel  # noqa: F401 - fixtures for all
from preloaded import TORCHLOCKS, run_torchlocks
from torchlocks.core.errors import FetchError, WheelError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.local_channel.build import LocalChannel, build_local_channel
from torchlocks.publish.build import BuiltChannel, build_recipes

ROOT = Path(__file__).resolve().parents[2]


def _stand_in(root: Path) -> Path:
    """Make a folder with links to all that is committed, in which tests build: the user's `envs/` are not theirs."""
    root.mkdir(parents=True, exist_ok=True)
    for path in [*ROOT.iterdir(), ROOT / ".venv"]:
        if path.name in (".git", "build", "envs", "reports", "dist") or path.name.endswith("_cache"):
            continue
        with suppress(FileExistsError):
            (root / path.name).symlink_to(path)
    for name in ("build", "envs", "reports"):
        (root / name).mkdir(exist_ok=True)
    return root


LAYOUT = Layout(_stand_in(ROOT / "build" / "tests"))

# `make test SNAPSHOT=…` hands its own variables down to every make that a test runs, where they are not meant.
for _name in ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "SNAPSHOT"):
    os.environ.pop(_name, None)

# Started in the background, a shell's children ignore Ctrl-C, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def environment() -> Path:
    """The CPU environment of the tests, made from the local channel; where it is there already, nothing is done."""
    command = ["make", "env-cpu", "CHANNEL=local"]
    made = subprocess.run(command, cwd=LAYOUT.root, capture_output=True, text=True, timeout=1800, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return LAYOUT.prefix("cpu")


@pytest.fixture(scope="session")
def local_channel() -> LocalChannel:
    """The channel that the tests' CPU environment is made from; quick where it is there already."""
    try:
        return build_local_channel(LAYOUT, progress=Silent())
    except (FetchError, WheelError) as error:
        pytest.skip(f"the local channel cannot be built here: {error}")


@pytest.fixture(scope="session")
def recipes_channel(folder_of_run: Path) -> BuiltChannel:
    """The recipes of this checkout, built once for all processes of a run. For reading only."""
    kept = folder_of_run / "recipes.pickle"
    with FileLock(folder_of_run / "recipes.lock"):
        if kept.is_file():
            found = pickle.loads(kept.read_bytes())
            assert isinstance(found, BuiltChannel)
            return found
        built = build_recipes(
            Layout(ROOT),
            channel=folder_of_run / "recipes" / "channel",
            engine="py-rattler-build",
            progress=Silent(),
        )
        kept.write_bytes(pickle.dumps(built))
        return built


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: of what some tests take, most is waiting."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let one process of several start with what needs the environment, and the others with what does not.

    Each process is given a contiguous share of the tests, and a process that has run its share takes half of what
    another has left, from the end. So files that need the environment come first in the first share, the other slow
    files first in the last share, and the unit tests after both, where they fill what time is left. No test depends on
    this order. One process alone runs the tests as they are listed.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes < 2:
        return
    users = {item.path for item in items if "environment" in getattr(item, "fixturenames", ())}
    slow = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    first = [item for item in slow if item.path in users]
    # The longest fixture that is not the environment itself.
    first.sort(key=lambda item: item.path.name != "test_verify_sabotage.py")
    last = [item for item in slow if item.path not in users]
    quick = [item for item in items if not item.path.is_relative_to(Path(__file__).parent)]
    before = max(0, min(len(quick), len(items) - len(items) // processes - len(first)))
    items[:] = [*first, *quick[:before], *last, *quick[before:]]


@dataclass(frozen=True)
class Checkout:
    """A copy of the checkout in which things can be broken; it shares wheels and built packages by hard links."""

    root: Path

    @property
    def prefix(self) -> Path:
        return self.root / "envs" / "cpu"

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `torchlocks` in the copy, as a user without any network would."""
        return run_torchlocks(arguments, cwd=self.root, env=self._environment(environment))

    def interrupt(self, *arguments: str, after: float) -> tuple[int, str]:
        """Start `torchlocks`, press Ctrl-C after some seconds, and return its exit code and what it said."""
        process = subprocess.Popen(
            [str(TORCHLOCKS), *arguments],
            cwd=self.root,
            env=self._environment({}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            # A terminal sends Ctrl-C to every process of the group.
            os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
        return process.returncode, said

    def leftovers(self) -> list[str]:
        """What is in envs/ and build/ that a user would take for rubbish."""
        hidden = [path for path in (self.root / "envs").glob(".*") if path.name.endswith(("lock", "previous"))]
        return sorted(path.name for path in (self.root / "envs").glob(".*") if path not in hidden)

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        # The discard port of loopback refuses every connection at once.
        nowhere = "http://127.0.0.1:9"
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"), nowhere)
        return {**os.environ, **proxies, "NO_PROXY": "", "no_proxy": "", "PIP_NO_INDEX": "1", **more}


def copy_of_checkout(root: Path) -> Checkout:
    """A copy of this checkout at `root`, whose suite is cut down to the static checks, which take no time.

    Its build folder must be there already: ask for the fixture `environment`.
    """
    root.mkdir()
    for name in ("matrix.yml", "environment-cpu.yml", "environment-gpu.yml", "requirements.txt"):
        shutil.copy(LAYOUT.root / name, root)
    for name in ("locks", "recipes"):
        shutil.copytree(LAYOUT.root / name, root / name)
    other = {path.name for path in LAYOUT.suite.glob("test_*.py")} - {"test_static_lock.py"}
    keep_out = shutil.ignore_patterns(*other, "__pycache__")
    shutil.copytree(LAYOUT.suite, root / "tests" / "torch", ignore=keep_out)
    (root / "build").mkdir()
    for name in ("channel", "wheels"):
        shutil.copytree(LAYOUT.build / name, root / "build" / name, copy_function=_link)
    return Checkout(root)


@pytest.fixture
def copy_checkout(environment: Path, tmp_path: Path) -> Callable[[], Checkout]:
    """Makes a copy of this checkout, in which nothing is installed yet. The space in its path is on purpose."""
    return lambda: copy_of_checkout(tmp_path / "a checkout")


def _link(original: str, target: str) -> None:
    try:
        os.link(original, target, follow_symlinks=False)
    except OSError:  # Another file system, or one without hard links.
        shutil.copy2(original, target, follow_symlinks=False)

"""The wheel: what is in it, and that an installed torchlocks works where there is no checkout."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import torchlocks
from built_wheel import COMMITTED, ROOT, Installed, build
from conftest import LAYOUT
from tiny_channel import PLATFORM, make_channel
from torchlocks.host.detect import host_platform
from torchlocks.lockfile.explicit import write_explicit

SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))


def test_the_wheel_holds_all_that_is_committed_and_no_more(wheel: Path, source: Path) -> None:
    listed = subprocess.run(["git", "ls-files", *COMMITTED], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("what is committed cannot be told: this is no git checkout")
    wanted = {name for name in listed.stdout.splitlines() if not Path(name).name.startswith(".")}
    with zipfile.ZipFile(wheel) as archive:
        data = {name.partition("/_data/")[2]: name for name in archive.namelist() if "/_data/" in name}
        assert wanted <= data.keys()
        # Files that somebody is about to commit may be there as well, those that tools leave may not.
        assert not [name for name in data if "__pycache__" in name or name.endswith((".pyc", ".egg-info"))]
        differing = [name for name in sorted(wanted) if archive.read(data[name]) != (source / name).read_bytes()]
        assert differing == []
        code = ROOT / "scripts"
        own = {path.relative_to(code).as_posix() for path in (code / "torchlocks").rglob("*") if path.is_file()}
        assert {name for name in own if "__pycache__" not in name} <= set(archive.namelist())


def test_building_again_gives_the_same_bytes_whatever_an_earlier_build_left(
    wheel: Path, source: Path, tmp_path: Path
) -> None:
    here = shutil.copytree(source, tmp_path / "source")
    for stale in ("gone.py", "_data/locks/gone/conda-lock.yml"):
        (here / "build" / "lib" / "torchlocks" / stale).parent.mkdir(parents=True, exist_ok=True)
        (here / "build" / "lib" / "torchlocks" / stale).touch()
    assert build(here, tmp_path / "dist").read_bytes() == wheel.read_bytes()


def test_an_editable_install_holds_no_copies(source: Path, tmp_path: Path) -> None:
    """There is one matrix in a checkout, and it is the one that is edited."""
    here = shutil.copytree(source, tmp_path / "source")
    command = "from setuptools.build_meta import build_editable; build_editable('.')"
    subprocess.run([sys.executable, "-c", command], cwd=here, check=True, capture_output=True)
    assert list(here.rglob("matrix.yml")) == [here / "matrix.yml"]


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, source: Path, tmp_path: Path) -> None:
    here = shutil.copytree(source, tmp_path / "source")
    command = "from setuptools.build_meta import build_sdist; build_sdist('.')"
    subprocess.run([sys.executable, "-c", command], cwd=here, check=True, capture_output=True)
    (archive,) = here.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    again = build(unpacked, tmp_path / "dist")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert {item.filename: item.CRC for item in one.infolist()} == {
            item.filename: item.CRC for item in other.infolist()
        }


def test_what_a_release_uploads_is_as_the_index_wants_it(wheel: Path, source: Path, tmp_path: Path) -> None:
    """Metadata and description, by twine; what is in the wheel, by check-wheel-contents; a version that is a date."""
    from packaging.version import Version

    tools = Path(sys.executable).parent
    built = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])",
            str(tmp_path),
        ],
        cwd=shutil.copytree(source, tmp_path / "source"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (sdist,) = tmp_path.glob("*.tar.gz")
    checked = subprocess.run(
        [str(tools / "twine"), "check", "--strict", str(wheel), str(sdist)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # W002: LICENSE is also among the data. W004: the suite and the recipes lie in folders that are no modules.
    contents = subprocess.run(
        [str(tools / "check-wheel-contents"), "--ignore", "W002,W004", str(wheel)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert contents.returncode == 0, contents.stdout + contents.stderr
    release = Version(torchlocks.__version__).release
    assert release == (0, 1, 0) or (len(release) == 3 and release[0] >= 2026 and 1 <= release[1] <= 12)


def test_in_an_empty_folder_it_knows_its_environments(installed: Installed) -> None:
    matrix = installed.run("matrix", "--markdown")
    assert (matrix.returncode, "| gpu-cu129 | linux-aarch64 |" in matrix.stdout) == (0, True), matrix.stderr
    why = installed.run("why", "cudnn", "--env", "gpu-cu118", "--platform", "linux-64")
    assert (why.returncode, "→ cudnn" in why.stdout) == (0, True), why.stderr
    check = installed.run("check", "--env", "cpu", "--format", "json")
    assert check.returncode == 0, check.stdout
    line = installed.run("pick", "--platform", "linux-64", "--client", "micromamba").stdout.splitlines()[-1]
    assert Path(shlex.split(line)[-1]).is_file(), line
    assert "fix:   torchlocks env cpu" in installed.run("fsck", "cpu").stderr
    assert installed.files() == []


@pytest.mark.parametrize("verb", [("lock",), ("update", "numpy"), ("recipes", "--update"), ("update-all",), ("bench",)])
def test_what_needs_a_checkout_is_refused_without_one(installed: Installed, verb: tuple[str, ...]) -> None:
    run = installed.run(*verb)
    assert (run.returncode, "not a checkout of torchlocks" in run.stderr) == (22, True), run.stderr
    assert installed.files() == []


def test_in_a_checkout_that_one_counts(installed: Installed) -> None:
    """The wheel's own matrix stands back behind that of the folder one is in."""
    for name in ("matrix.yml", "environment-cpu.yml"):
        shutil.copy(ROOT / name, installed.folder)
    matrix = installed.folder / "matrix.yml"
    matrix.write_text(matrix.read_text().replace("  cpu:\n", "  cpu-here:\n", 1))
    assert "| cpu-here |" in installed.run("matrix", "--markdown").stdout
    elsewhere = installed.run("matrix", TORCHLOCKS_ROOT=str(installed.folder.parent))
    assert (elsewhere.returncode, "not a torchlocks checkout" in elsewhere.stderr) == (14, True)


@pytest.mark.skipif(host_platform() != PLATFORM, reason=f"the tiny channel is for {PLATFORM}")
def test_a_lock_is_installed_from_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    channel = make_channel(tmp_path / "channel")
    (tmp_path / "tiny.lock").write_text(write_explicit(channel.lock(), PLATFORM))
    run = installed.run("install", tmp_path / "tiny.lock", "here", RATTLER_CACHE_DIR=str(tmp_path / "cache"))
    assert run.returncode == 0, run.stderr
    assert (installed.folder / "here" / "share" / "alpha.txt").is_file()


@pytest.mark.skipif(not SLOW, reason="a whole environment takes a minute; TORCHLOCKS_SLOW=1 runs this")
@pytest.mark.parametrize("home", ["", "elsewhere"])
def test_an_environment_is_made_and_verified_from_the_wheel(
    installed: Installed, environment: Path, home: str, tmp_path: Path
) -> None:
    made = tmp_path / home if home else installed.folder
    (made / "build").mkdir(parents=True)
    for name in ("channel", "wheels"):
        shutil.copytree(LAYOUT.build / name, made / "build" / name)
    run = installed.run("env", "cpu", "--channel", "local", TORCHLOCKS_HOME=str(made) if home else "")
    assert run.returncode == 0, run.stderr
    assert (made / "envs" / "cpu" / "bin" / "python").is_file()
    assert (made / "reports" / "cpu.json").is_file()
    assert installed.files() == [] if home else True
    assert installed.run("run", "cpu", "python", "-c", "import torch", TORCHLOCKS_HOME=str(made)).returncode == 0

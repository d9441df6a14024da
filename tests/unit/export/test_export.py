"""Exports of the committed locks, each read again by what reads that kind of file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchlocks.core.errors import ExportError, LockfileError
from torchlocks.core.layout import Layout
from torchlocks.export.environment import LockedTarget, find_locked
from torchlocks.export.formats import FORMATS, export
from torchlocks.export.pins import constraints
from torchlocks.export.pypi import contradicted
from torchlocks.export.render import Place
from torchlocks.lockfile.formats import explicit_name, parse_lock, to_record
from torchlocks.lockfile.models import LockedPackage
from torchlocks.matrix.load import load_matrix

LAYOUT = Layout(Path(__file__).parents[3])
MATRIX = load_matrix(LAYOUT.matrix)
SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))
#: Variants differ from the defaults in versions alone: some of them, and all in the long form.
VARIANTS = [target for target in MATRIX.targets() if target.env not in MATRIX.rows][:: 1 if SLOW else 6]
TARGETS = [(target.env, target.platform) for target in (*MATRIX.defaults(), *VARIANTS)]
PLACE = Place(prefix="/somewhere/it is")
NEWEST_GPU = list(MATRIX.rows)[-1]


@pytest.fixture(autouse=True)
def _checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(LAYOUT.root)


@cache
def locked_as(env: str, platform: str = "linux-64") -> LockedTarget:
    return find_locked(env, platform)


def made(form: str, env: str = "cpu", platform: str = "linux-64", place: Place = PLACE) -> str:
    return export(FORMATS[form], [locked_as(env, platform)], place)


def tool(name: str) -> str | None:
    """A program of the development tools, or of the machine."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.is_file() else shutil.which(name)


needs_shellcheck = pytest.mark.skipif(tool("shellcheck") is None, reason="shellcheck is not installed")


def shellcheck(script: str, shell: str = "bash") -> str:
    command = [tool("shellcheck") or "", "--shell", shell, "--severity", "info", "-"]
    return subprocess.run(command, input=script, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(("env", "platform"), TARGETS)
def test_the_explicit_export_is_the_committed_file(env: str, platform: str) -> None:
    assert made("explicit", env, platform) == (LAYOUT.locks / env / explicit_name(platform)).read_text()


@pytest.mark.parametrize(("env", "platform"), TARGETS)
def test_an_environment_file_pins_each_package_of_the_lock_and_no_other(env: str, platform: str) -> None:
    from rattler import MatchSpec

    locked = locked_as(env, platform)
    document = yaml.safe_load(export(FORMATS["environment"], [locked], PLACE))
    assert document["name"] == env
    assert document["channels"] == [*MATRIX.environment(env).channels, "nodefaults"]
    specs = [MatchSpec(line) for line in document["dependencies"]]
    assert [spec.name.normalized for spec in specs if spec.name] == [package.name for package in locked.packages]
    for spec, package in zip(specs, locked.packages, strict=True):
        assert spec.matches(to_record(package)), str(spec)
        assert not spec.matches(to_record(other_build(package))), str(spec)
        assert spec.channel is not None
        assert spec.channel.base_url.rstrip("/") == package.channel


def other_build(package: LockedPackage) -> LockedPackage:
    url = package.url.replace(f"-{package.build}.", f"-{package.build}x.")
    return replace(package, build=f"{package.build}x", url=url)


def test_conda_lock_reads_the_environment_file(tmp_path: Path) -> None:
    from conda_lock.src_parser.environment_yaml import parse_environment_file

    (tmp_path / "environment.yml").write_text(made("environment", "gpu-cu124"))
    found = parse_environment_file(tmp_path / "environment.yml", platforms=["linux-64"], mapping_url="none")
    locked = locked_as("gpu-cu124")
    assert {dependency.name for dependency in found.dependencies["linux-64"]} >= {p.name for p in locked.packages}


@pytest.mark.parametrize(("env", "platform"), TARGETS)
def test_constraints_are_pins_that_pip_reads(env: str, platform: str) -> None:
    from packaging.requirements import Requirement

    locked = locked_as(env, platform)
    lines = [line for line in made("constraints", env, platform).splitlines() if not line.startswith("#")]
    pins = {requirement.name: str(requirement.specifier) for requirement in map(Requirement, lines)}
    assert len(pins) == len(lines)
    assert pins["torch"] == f"=={locked.version_of('pytorch')}"
    assert pins["numpy"] == f"=={locked.version_of('numpy')}"
    # Neither the interpreter, nor libraries, nor what conda calls by another name is one of PyPI's.
    assert not pins.keys() & {"python", "cpython", "pytorch", "libtorch", "openssl", "mkl", "cuda-version", "tzdata"}


def test_constraints_list_what_pip_cannot_install() -> None:
    url = "https://conda.anaconda.org/conda-forge/noarch/{}-{}-py_0.conda"
    packages = [
        LockedPackage(name=name, version=version, build="py_0", subdir="noarch", url=url.format(name, version),
                      depends=depends)
        for name, version, depends in (
            ("Typing_Extensions", "4.0", ("python >=3.8",)),
            ("odd", "2025c", ("python",)),
            ("torchtriton", "3.1.0+cu12", ("conda-forge::python_abi 3.11.* *_cp311",)),
            ("zlib", "1.3", ("libgcc",)),
        )
    ]  # fmt: skip
    pins, strange = constraints(packages)
    assert pins == {"triton": "3.1.0", "typing-extensions": "4.0"}
    assert [package.name for package in strange] == ["odd"]


def test_pins_that_torch_contradicts_are_left_out_and_named() -> None:
    pins = {"torch": "2.0", "mpmath": "1.4", "numpy": "2.3", "a": "1", "b": "1", "zlib-ng": "1"}

    def resolve(wanted: Sequence[str], given: Sequence[str]) -> dict[str, str] | None:
        assert wanted[0] == "torch==2.0"
        impossible = {"mpmath==1.4"} & set(given) or {"a==1", "b==1"} <= set(given)
        found = {"torch": "2.0", "torchvision": "0.15", "mpmath": "1.3", "numpy": "2.3", "a": "2", "b": "2"}
        return None if impossible else found

    assert contradicted(pins, resolve) == ("mpmath", "b")
    assert contradicted({"numpy": "2.3"}, resolve) == ()
    # Built for this torch by conda-forge, and for another on PyPI.
    assert contradicted({"torch": "2.0", "torchvision": "0.15.1"}, resolve) == ("torchvision",)
    assert contradicted({"torch": "2.0"}, lambda wanted, given: None) is None
    # One pin among many is found by halving: each attempt is a run of uv.
    attempts = []

    def counted(wanted: Sequence[str], given: Sequence[str]) -> dict[str, str] | None:
        attempts.append(given)
        return None if "p9==1" in given else {"torch": "2.0"} | {f"p{number}": "2" for number in range(16)}

    assert contradicted({"torch": "2.0"} | {f"p{number}": "1" for number in range(16)}, counted) == ("p9",)
    assert len(attempts) <= 7
    left = replace(PLACE, left_out=("numpy",))
    text = export(FORMATS["constraints"], [locked_as("cpu", "linux-64")], left)
    (line,) = [line for line in text.splitlines() if "numpy==" in line]
    assert line.startswith("# left out")
    assert "PyPI has no such torch" in export(
        FORMATS["constraints"], [locked_as("cpu", "linux-64")], replace(PLACE, left_out=None)
    )


def test_a_lock_is_named_after_the_environment_file_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "some-folder"
    folder.mkdir()
    shutil.copy(LAYOUT.locks / "cpu" / "conda-lock.yml", folder)
    assert find_locked(str(folder / "conda-lock.yml"), "linux-64").name == "some-folder"
    for text, name in (("name: stripes\n", "stripes"), ("name: a b$(c)\n", "a-b-c"), ("- [\n", "some-folder")):
        (folder / "environment.yml").write_text(text)
        assert find_locked(str(folder / "conda-lock.yml"), "linux-64").name == name


def test_an_explicit_lock_has_no_noarch_python() -> None:
    locked = find_locked("locks/cpu/conda-linux-64.lock", None)
    assert (locked.name, locked.platform, locked.target) == ("conda-linux-64", "linux-64", None)
    with pytest.raises(ExportError, match="cannot be identified"):
        export(FORMATS["constraints"], [locked], PLACE)


def toml(text: str) -> dict[str, Any]:
    from tomlkit import parse  # One of conda-lock's own libraries.

    return parse(text).unwrap()


@pytest.mark.parametrize("env", dict.fromkeys(env for env, _ in TARGETS))
def test_a_pixi_manifest_pins_every_platform(env: str) -> None:
    from rattler import MatchSpec

    every = [locked_as(env, platform) for platform in MATRIX.environment(env).platforms]
    document = toml(export(FORMATS["pixi"], every, PLACE))
    assert set(document) <= {"workspace", "system-requirements", "target"}
    assert document["workspace"] == {
        "name": env,
        "channels": list(MATRIX.environment(env).channels),
        "platforms": [locked.platform for locked in every],
    }
    wanted = document.get("system-requirements", {})
    assert wanted.get("cuda") == MATRIX.environment(env).virtual_cuda
    assert ("libc" in wanted) == any(locked.platform.startswith("linux") for locked in every)
    for locked in every:
        pins = document["target"][locked.platform]["dependencies"]
        held = {package.name: package for package in locked.packages}
        # Few, so that pixi can solve for more; python and torch are among them.
        assert {"python", "pytorch"} <= pins.keys() <= held.keys()
        assert len(pins) <= 6
        for name, pin in pins.items():
            given = pin if isinstance(pin, dict) else {"version": pin}
            spec = MatchSpec(f"{name} {given['version']} {given.get('build', '*')}")
            assert spec.matches(to_record(held[name]))
            if "channel" in given:
                assert given["channel"] == held[name].channel.removeprefix("https://conda.anaconda.org/")
        build = pins["pytorch"]["build"]
        assert ("cpu" in build) == (locked.target is not None and locked.target.cuda is None)


@pytest.mark.parametrize("env", ["cpu", NEWEST_GPU])
def test_an_image_is_built_from_the_explicit_file_and_no_other(env: str, tmp_path: Path) -> None:
    """The line with the hash is run as it stands, on the file that is copied and on another."""
    (tmp_path / "conda-linux-64.lock").write_text(made("explicit", env))
    for form, start in (("dockerfile", "RUN echo"), ("apptainer", "    echo")):
        (line,) = [line for line in made(form, env).splitlines() if line.startswith(start)]
        command = line.strip().removeprefix("RUN ").removesuffix("\\").replace("/tmp/", "").replace("  /", "  ")
        for damage, passes in ((b"", True), (b"\n", False)):
            (tmp_path / "conda-linux-64.lock").write_bytes(made("explicit", env).encode() + damage)
            checked = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
            assert (checked.returncode == 0) is passes


def instructions(dockerfile: str) -> dict[str, list[str]]:
    """Each instruction's arguments, in order, with continued lines joined."""
    joined = re.sub(r"\\\n", " ", "\n".join(x for x in dockerfile.splitlines() if not x.startswith("#")))
    found: dict[str, list[str]] = {}
    for line in joined.splitlines():
        word, _, rest = line.partition(" ")
        found.setdefault(word, []).append(rest)
    return found


def test_a_dockerfile_asks_for_gpus_only_where_there_is_cuda() -> None:
    cpu, gpu = instructions(made("dockerfile")), instructions(made("dockerfile", "gpu-cu118"))
    assert set(cpu) - {""} == {"ARG", "FROM", "COPY", "RUN", "ENV", "LABEL"}
    assert not [line for line in cpu["ENV"] if "NVIDIA" in line]
    (nvidia,) = [line for line in gpu["ENV"] if "NVIDIA" in line]
    assert 'NVIDIA_REQUIRE_CUDA="cuda>=11.0"' in nvidia
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in nvidia
    assert gpu["LABEL"][0].endswith(f'"{locked_as("gpu-cu118").lock.sha256}"')


@needs_shellcheck
@pytest.mark.parametrize("env", ["cpu", "gpu-cu126"])
def test_the_scripts_of_images_are_sound(env: str) -> None:
    for script in instructions(made("dockerfile", env))["RUN"]:
        assert shellcheck(f"# shellcheck disable=SC2154\n{script}\n", "sh") == ""
    sections = apptainer_sections(made("apptainer", env))
    for name in ("post", "environment", "runscript", "test"):
        assert shellcheck(sections[name] + "\n", "sh") == ""


def apptainer_sections(definition: str) -> dict[str, str]:
    parts = re.split(r"^%(\w+)\n", definition, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def test_an_apptainer_definition_has_its_sections() -> None:
    sections = apptainer_sections(made("apptainer", "gpu-cu126"))
    assert sections[""].startswith("Bootstrap: docker\nFrom: mambaorg/micromamba:")
    assert set(sections) == {"", "files", "post", "environment", "runscript", "test", "labels", "help"}
    assert "--nv" in sections["help"]
    assert "--nv" not in apptainer_sections(made("apptainer"))["help"]


@needs_shellcheck
@pytest.mark.parametrize("env", ["cpu", "gpu-cu126"])
def test_a_batch_script_is_sound(env: str) -> None:
    assert shellcheck(made("slurm", env)) == ""


def test_a_batch_script_asks_for_what_the_environment_needs() -> None:
    cpu, gpu = made("slurm"), made("slurm", "gpu-cu126")
    assert "--gpus-per-node" not in cpu
    assert "nvidia-smi" not in cpu
    assert "#SBATCH --gpus-per-node=1\n" in gpu
    assert "\nfloor=525.60.13\n" in gpu
    # Slurm reads its options up to the first command.
    before = gpu[: gpu.index("\nset -euo")]
    assert len(re.findall(r"^#SBATCH ", before, flags=re.MULTILINE)) == gpu.count("#SBATCH")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="batch scripts are for Linux")
@pytest.mark.parametrize(
    ("nvidia_smi", "code", "said"),
    [
        (
            "echo 'NVIDIA-SMI has failed: no driver'; exit 9",
            1,
            "nvidia-smi fails on .*: NVIDIA-SMI has failed: no driver",
        ),
        ("echo 470.57.02", 1, "needs NVIDIA driver 525.60.13 or newer, and .* has 470.57.02$"),
        ("echo 535.104.05; echo 535.104.05", 0, "^$"),
    ],
    ids=["broken driver", "old driver", "two GPUs"],
)
def test_a_batch_job_reports_what_is_wrong_with_the_driver(
    tmp_path: Path, nvidia_smi: str, code: int, said: str
) -> None:
    (tmp_path / "conda-meta").mkdir()
    for each in locked_as("gpu-cu126").packages:
        (tmp_path / "conda-meta" / f"{each.name}-{each.version}-{each.build}.json").touch()
    # The installer's own files do not count.
    (tmp_path / "conda-meta" / "history").touch()
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{nvidia_smi}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    script = tmp_path / "job.sbatch"
    script.write_text(made("slurm", "gpu-cu126", place=Place(prefix=str(tmp_path))))
    run = subprocess.run(
        ["bash", str(script), "echo", "ran"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (code, "" if code else "ran\n"), run.stderr
    assert re.search(said, run.stderr.strip()), run.stderr


MODULE_COMMANDS = """
set done {}
foreach name {module-whatis conflict setenv prepend-path} {
    proc $name args "lappend ::done \\[concat $name \\$args\\]"
}
proc module-info {what {is {}}} { return [expr {$what eq "mode" && $is eq "load"}] }
while 1 { source [lindex $argv 0]; ModulesHelp; puts [join $done \\n]; break }
"""


def run_module(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Load a modulefile with Tcl itself, and the commands that it may use."""
    (tmp_path / "modulefile").write_text(text)
    (tmp_path / "commands.tcl").write_text(MODULE_COMMANDS)
    command = [shutil.which("tclsh") or "", str(tmp_path / "commands.tcl"), str(tmp_path / "modulefile")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("tclsh") is None, reason="tclsh is not installed")
def test_a_modulefile_is_tcl_that_puts_the_environment_first(tmp_path: Path) -> None:
    prefix = tmp_path / "an [env] $HOME"
    (prefix / "conda-meta").mkdir(parents=True)
    run = run_module(tmp_path, made("module", "gpu-cu126", place=Place(prefix=str(prefix))))
    assert run.returncode == 0, run.stderr
    assert f"prepend-path PATH {{{prefix}/bin}}" in run.stdout.splitlines()
    assert f"setenv CONDA_PREFIX {{{prefix}}}" in run.stdout.splitlines()
    assert "525.60.13" in run.stderr
    (prefix / "conda-meta").rmdir()
    run = run_module(tmp_path, made("module", "gpu-cu126", place=Place(prefix=str(prefix))))
    assert "There is no environment" in run.stderr
    assert "prepend-path" not in run.stdout
    with pytest.raises(ExportError, match="Tcl"):
        made("module", place=Place(prefix="/a}; exec rm"))


def test_a_devcontainer_stands_on_the_dockerfile() -> None:
    cpu, gpu = json.loads(made("devcontainer")), json.loads(made("devcontainer", "gpu-cu126"))
    assert cpu["build"]["dockerfile"] == FORMATS["dockerfile"].file
    assert "hostRequirements" not in cpu
    assert gpu["hostRequirements"] == {"gpu": True}
    assert gpu["containerEnv"]["TORCHLOCKS_LOCK_SHA256"] == locked_as("gpu-cu126").lock.sha256


@pytest.mark.parametrize("form", [form.name for form in FORMATS.values() if form.name not in ("explicit",)])
def test_an_export_names_the_hash_of_the_lock_and_nothing_of_this_machine(form: str) -> None:
    text = made(form, "gpu-cu126")
    assert hashlib.sha256((LAYOUT.locks / "gpu-cu126" / "conda-lock.yml").read_bytes()).hexdigest() in text
    assert str(LAYOUT.root) not in text
    assert text == made(form, "gpu-cu126")


@pytest.mark.parametrize("form", [form.name for form in FORMATS.values() if form.linux_only])
def test_containers_and_clusters_are_linux(form: str) -> None:
    with pytest.raises(ExportError, match="is for Linux"):
        made(form, "cpu", "osx-arm64")


@pytest.mark.parametrize("name", ["zlib';id;'-1-0", "zlib-1$(id)-0", "zlib-1-0`id`", 'zlib"-1-0'])
def test_a_lock_with_code_in_its_names_is_refused(name: str, tmp_path: Path) -> None:
    lock = tmp_path / "bad.lock"
    lock.write_text(f"@EXPLICIT\nhttps://conda.anaconda.org/conda-forge/linux-64/{name}.conda#{'0' * 64}\n")
    parse_lock(lock.read_bytes(), lock)
    with pytest.raises(LockfileError, match="characters that none has"):
        find_locked(str(lock), None)


def test_a_strange_file_name_stays_out_of_scripts(tmp_path: Path) -> None:
    lock = tmp_path / "a\n$(id)`id`.lock"
    lock.write_bytes((LAYOUT.locks / "cpu" / "conda-linux-64.lock").read_bytes())
    locked: LockedTarget = find_locked(str(lock), None)
    for form in ("dockerfile", "slurm", "module", "apptainer", "environment", "pixi"):
        text = export(FORMATS[form], [locked], PLACE)
        assert "$(id)" not in text
        assert "`id`" not in text


def test_channels_keep_their_credentials_to_themselves(tmp_path: Path) -> None:
    lock = tmp_path / "private.lock"
    urls = ("https://me:secret@example.org/t/tk-hidden/mine/linux-64/zlib-1.3-0.conda",)
    lock.write_text("@EXPLICIT\n" + "".join(f"{url}#{'0' * 64}\n" for url in urls))
    for form in ("environment", "pixi"):
        text = export(FORMATS[form], [find_locked(str(lock), None)], PLACE)
        assert "secret" not in text
        assert "hidden" not in text
        assert "https://example.org/mine" in text

"""Lockfiles and environment files as other people and tools write them: what `check` and the others answer.

Each folder of tests/data/cases holds one small file. The table names the findings by rule and package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchlocks.check.anywhere import check_files_of
from torchlocks.check.model import Report
from torchlocks.check.report import as_json
from torchlocks.core.errors import EnvironmentFileError, LockfileError
from torchlocks.diff.compare import diff
from torchlocks.diff.read import read_side
from torchlocks.export.environment import find_locked
from torchlocks.extend.environment_file import read_environment_file
from torchlocks.install.fetch_options import packages_for
from torchlocks.lockfile.formats import read_environments, read_lock

CASES = Path(__file__).parents[2] / "data" / "cases"

Found = set[tuple[str, str]]
"""Rule and package, or the rule with an empty text where a finding names no package."""


def found(report: Report, severity: str) -> Found:
    return {(each.rule, each.package or "") for each in report.findings if each.severity == severity}


FINDINGS: dict[str, tuple[Found, Found]] = {
    "defaults/conda-lock.yml": (set(), set()),
    "envvars/conda-lock.yml": (set(), set()),
    "matchspec-channel/conda-lock.yml": (set(), set()),
    "explicit-conflict/conda-linux-64.lock": ({("unreadable", "")}, set()),
    "utf16/spec.txt": (set(), {("sha256-missing", "ca-certificates")}),
    "empty-install/conda-lock.yml": (set(), set()),
    "ijit/conda-linux-64.lock": (
        {("mkl-ijit", "mkl"), ("numpy-abi", "numpy"), ("torch-companions", "torchvision")},
        set(),
    ),
    "named-platforms/pixi.lock": (set(), set()),
    "multi-env/pixi.lock": (
        {("torch-variant", "torchvision"), ("dependency-unsatisfied", "pytorch")},
        set(),
    ),
    "pip-torch/pixi.lock": (set(), {("pip-package", "torch"), ("pip-package", "torchvision")}),
    "torch-twice/conda-lock.yml": (
        {("installed-twice", "pytorch"), ("installed-twice", "numpy")},
        {("pip-package", "torch"), ("pip-package", "numpy")},
    ),
    "anaconda-explicit/spec.txt": (set(), {("sha256-missing", "numpy"), ("sha256-missing", "r-base")}),
    "masked-token/spec.txt": (set(), set()),
    "label/conda-lock.yml": (set(), set()),
    "mirror/pixi.lock": (set(), set()),
    "numpy2-torch20/pixi.lock": ({("numpy-abi", "numpy")}, set()),
    "torchaudio-release/conda-lock.yml": ({("torch-companions", "torchaudio")}, set()),
    "pip-triton/conda-lock.yml": (
        {("torch-companions", "triton")},
        {("pip-package", "torch"), ("pip-package", "triton"), ("pip-package", "torchvision")},
    ),
    "pip-cu118/conda-lock.yml": ({("cuda-majors", "")}, {("pip-package", "torch")}),
    "pip-nccl/pixi.lock": (
        set(),
        {
            ("pip-package", "torch"),
            ("pip-package", "nvidia-cuda-runtime-cu12"),
            ("pip-package", "nvidia-nccl-cu12"),
            ("nccl-version", "nvidia-nccl-cu12"),
        },
    ),
    "intel-and-llvm-openmp/conda-linux-64.lock": (set(), {("openmp-twice", "intel-openmp")}),
    "gnu-openmp/conda-linux-64.lock": (set(), {("openmp-twice", "intel-openmp")}),
    "mac-wheel-openmp/pixi.lock": (set(), {("openmp-twice", "llvm-openmp"), ("pip-package", "torch")}),
    "pixi-v5/pixi.lock": (set(), {("pip-package", "six")}),
    "empty-default/pixi.lock": ({("numpy-abi", "numpy")}, set()),
    "sources/pixi.lock": (
        set(),
        {("source-package", "ours"), ("pip-package", "ours-py"), ("pip-package", "r")},
    ),
    "categories/conda-lock.yml": (set(), {("pip-package", "six")}),
    "graphviz/conda-lock.yml": (set(), {("pip-package", "graphviz")}),
    "windows-compiler-libraries/conda-win-64.lock": (set(), set()),
    "windows-numpy2/conda-lock.yml": (
        {("numpy-abi", "numpy")},
        {("pip-package", "torch"), ("pip-package", "numpy")},
    ),
    "crlf/spec.txt": (set(), {("sha256-missing", "zlib")}),
    "conda-lock-1/conda-lock.yml": (set(), {("pip-package", "six")}),
    "leaked-token/spec.txt": ({("url-credentials", "acme")}, set()),
    "http/spec.txt": ({("url-not-https", "acme")}, set()),
    "list-export/packages.txt": ({("unreadable", "")}, set()),
    "diff3-conflict/conda-lock.yml": ({("unreadable", "")}, set()),
    "pip-freeze/requirements.txt": ({("unreadable", "")}, set()),
    "torch-1.13/conda-linux-64.lock": (set(), set()),
    "forge-mkl/conda-linux-64.lock": (set(), set()),
    "forge-vision/conda-lock.yml": (set(), set()),
    "forge-vision-explicit/conda-linux-64.lock": (set(), {("torch-companions", "torchvision")}),
    "two-names/pixi.lock": (set(), set()),
    "wheels-of-12-on-11/conda-lock.yml": ({("cuda-majors", "")}, {("pip-package", "nvidia-cublas-cu12")}),
    "mixed-vision/pixi.lock": ({("torch-companions", "torchvision")}, {("pip-package", "torch")}),
}


@pytest.mark.parametrize("case", FINDINGS)
def test_check_finds_what_is_wrong_and_nothing_else(case: str) -> None:
    report = check_files_of([CASES / case])
    errors, warnings = FINDINGS[case]
    assert (found(report, "error"), found(report, "warning")) == (errors, warnings)


# pixi.lock with several environments


def test_findings_name_the_environments_they_were_found_in() -> None:
    report = check_files_of([CASES / "multi-env/pixi.lock"])
    assert {each.environments for each in report.findings} == {("gpu",)}
    assert set(report.environments.values()) == {("default", "gpu")}
    assert report.packages == 3


def test_one_environment_of_several_is_selected() -> None:
    path = CASES / "multi-env/pixi.lock"
    assert len(read_lock(path).packages["linux-64"]) == 1
    assert len(read_lock(path, "gpu").packages["linux-64"]) == 3
    assert not check_files_of([path], "default").findings
    with pytest.raises(LockfileError, match="no environment called 'docs'") as raised:
        read_lock(path, "docs")
    assert raised.value.fix == "it has: default, gpu"
    with pytest.raises(LockfileError, match="cannot be selected"):
        read_lock(CASES / "defaults/conda-lock.yml", "gpu")


def test_an_environment_must_be_named_where_the_default_is_empty(tmp_path: Path) -> None:
    text = (CASES / "multi-env/pixi.lock").read_text()
    first = text.replace("      linux-64:\n      - conda: https", "      linux-64: []\n    #   - conda: https", 1)
    path = tmp_path / "pixi.lock"
    path.write_text(first.replace("  gpu:", "  gpu:", 1))
    assert read_lock(path).environment == "gpu"
    path.write_text(text.replace("  default:", "  other:"))
    with pytest.raises(LockfileError, match="none is named default") as raised:
        read_lock(path)
    assert raised.value.fix == "name one with --environment: gpu, other"


def test_selections_from_one_file_are_distinguished() -> None:
    gpu, default = (read_lock(CASES / "multi-env/pixi.lock", name) for name in ("gpu", "default"))
    assert gpu.sha256 == default.sha256
    assert (gpu.selection, default.selection) == ("gpu", "default")
    assert find_locked(str(gpu.path), "linux-64", "gpu").name.endswith("-gpu")
    changes = diff(read_side(str(gpu.path), "default"), read_side(str(gpu.path), "gpu")).platforms[0].changes
    assert {change.name for change in changes} == {"pytorch", "torchvision"}


def test_a_pixi_lock_gives_the_same_bytes_in_every_process() -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from torchlocks.check.report import as_json\n"
        "from torchlocks.check.anywhere import check_files_of\n"
        "from torchlocks.diff.compare import diff\n"
        "from torchlocks.diff.read import read_side\n"
        "from torchlocks.diff.report import as_json as diff_json\n"
        "multi, named = sys.argv[1:]\n"
        "print(as_json(check_files_of([Path(multi), Path(named)])))\n"
        "print(diff_json(diff(read_side(named), read_side(named))))\n"
    )
    arguments = [str(CASES / "multi-env/pixi.lock"), str(CASES / "named-platforms/pixi.lock")]
    texts = {
        subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in range(3)
    }
    assert len(texts) == 1
    assert json.loads(as_json(check_files_of([Path(arguments[0])])))["findings"]


# pixi.lock with named platforms


@pytest.mark.parametrize("platform", ["cluster", "linux-64"])
def test_a_named_platform_is_found_by_its_name_and_by_its_subdir(platform: str) -> None:
    locked = find_locked(str(CASES / "named-platforms/pixi.lock"), platform)
    assert locked.platform == "linux-64"
    assert [package.name for package in locked.packages] == ["libzlib"]
    assert locked.virtual_packages["__glibc"] == "2.28"
    assert locked.platforms == ("linux-64", "win-64")


def test_a_named_platform_is_compared_with_its_subdir() -> None:
    named = read_side(str(CASES / "named-platforms/pixi.lock"))
    assert set(named.packages) == {"linux-64", "win-64"}
    other = read_side(str(CASES / "multi-env/pixi.lock"), "default")
    assert [each.platform for each in diff(named, other).platforms] == ["linux-64"]


def test_of_two_platforms_of_one_subdir_one_must_be_named(tmp_path: Path) -> None:
    text = (CASES / "named-platforms/pixi.lock").read_text().replace("win-64", "login")
    path = tmp_path / "pixi.lock"
    path.write_text(text.replace("- name: login", "- name: login\n  subdir: linux-64"))
    assert find_locked(str(path), "login").packages[0].name == "einops"
    with pytest.raises(LockfileError, match="several platforms for linux-64: cluster, login"):
        find_locked(str(path), "linux-64")


# Encodings and damage


def test_merge_conflicts_are_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(LockfileError, match="merge conflicts") as raised:
        read_lock(CASES / "explicit-conflict/conda-linux-64.lock")
    assert raised.value.where is not None
    assert raised.value.where.endswith("line 4")
    path = tmp_path / "environment.yml"
    path.write_text("dependencies:\n<<<<<<< HEAD\n  - numpy\n=======\n  - scipy\n>>>>>>> other\n")
    with pytest.raises(EnvironmentFileError, match="merge conflicts"):
        read_environment_file(path)


def test_text_of_powershell_is_read() -> None:
    assert read_lock(CASES / "utf16/spec.txt").platforms == ("win-64",)
    assert [
        requirement.name for requirement in read_environment_file(CASES / "utf16/environment.yml").on("linux-64")
    ] == ["einops"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32", "cp1252"])
def test_other_encodings_are_refused_with_what_to_do(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "spec.txt"
    path.write_bytes("# é\n@EXPLICIT\n".encode(encoding))
    with pytest.raises(LockfileError, match="not UTF-8") as raised:
        read_lock(path)
    assert "iconv" in str(raised.value.fix)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("# This file may be used to create an environment using:\nnumpy=2.0.0=py312_0\n", "conda list --export"),
        ("# packages in environment at /opt/x:\n#\n# Name  Version  Build  Channel\nnumpy 2.0 0\n", "conda list"),
        ("numpy==2.0.0\npip @ file:///home/x/pip\n", "pip freeze"),
    ],
)
def test_lists_of_packages_are_recognised(tmp_path: Path, text: str, command: str) -> None:
    path = tmp_path / "packages.txt"
    path.write_text(text)
    with pytest.raises(LockfileError, match=f"`{command}`") as raised:
        read_lock(path)
    assert "conda list --explicit --sha256" in str(raised.value.fix)


def test_an_exported_environment_is_read_without_its_prefix() -> None:
    requirements = read_environment_file(CASES / "conda-export-prefix/environment.yml")
    assert [requirement.name for requirement in requirements.on("linux-64")] == ["einops"]
    assert len(requirements.notes) == 1


# Nothing to install


def test_a_platform_without_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LockfileError, match="no conda packages for linux-64") as raised:
        packages_for(read_lock(CASES / "empty-install/conda-lock.yml"), "linux-64")
    assert "win-64" in str(raised.value.fix)
    path = tmp_path / "spec.txt"
    path.write_text("# platform: linux-64\n@EXPLICIT\n")
    with pytest.raises(LockfileError, match="no conda packages"):
        packages_for(read_lock(path), "linux-64")


def test_a_lock_of_pip_packages_alone_is_refused(tmp_path: Path) -> None:
    text = (CASES / "pip-torch/pixi.lock").read_text()
    path = tmp_path / "pixi.lock"
    line = "      - conda: https://conda.anaconda.org/conda-forge/linux-64/libzlib-1.3.1-hb9d3cd8_2.conda\n"
    assert line in text
    path.write_text(text.replace(line, ""))
    with pytest.raises(LockfileError, match="only 2 that are left to pip"):
        packages_for(read_lock(path), "linux-64")


def test_the_driver_of_builds_of_the_pytorch_channel_is_known() -> None:
    side = read_side(str(CASES / "ijit/conda-linux-64.lock"))
    facts = diff(side, side).platforms[0].after
    assert (facts.torch, facts.driver) == ("2.1.0 CUDA 11.8", "450.80.02")
    cpu = read_side(str(CASES / "forge-mkl/conda-linux-64.lock"))
    assert diff(cpu, cpu).platforms[0].after.driver is None


# pip's packages count


def test_a_torch_of_pip_is_a_torch() -> None:
    side = read_side(str(CASES / "pip-torch/pixi.lock"))
    assert diff(side, side).platforms[0].after.torch == "2.9.1 CPU"
    report = check_files_of([CASES / "pip-torch/pixi.lock"])
    assert not any("no PyTorch" in skip.reason for skip in report.skipped)
    nccl = read_side(str(CASES / "pip-nccl/pixi.lock"))
    assert diff(nccl, nccl).platforms[0].after.torch == "2.8.0 CUDA 12.8"


def test_a_package_that_pip_and_conda_both_have_is_compared_twice() -> None:
    both = read_side(str(CASES / "torch-twice/conda-lock.yml"))
    conda = read_side(str(CASES / "defaults/conda-lock.yml"))
    moves = {change.name: change.move for change in diff(both, conda).platforms[0].changes}
    assert moves == {
        "pytorch": "removed",
        "pytorch (pip)": "removed",
        "numpy": "downgraded",
        "numpy (pip)": "removed",
    }


def test_all_environments_are_read_in_order() -> None:
    names = [lock.environment for lock in read_environments(CASES / "multi-env/pixi.lock")]
    assert names == ["default", "gpu"]

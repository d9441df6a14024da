"""The workarounds inside conda-lock and for py-rattler: that they are still needed, and for which versions."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from conda_lock import conda_solver, invoke_conda
from packaging.requirements import Requirement

MAKE_VIRTUAL_REPOSITORY = """
import os, pathlib, sys
from conda_lock.virtual_package import virtual_package_repo_from_specification
virtual_package_repo_from_specification(pathlib.Path(sys.argv[1]))
os._exit(0)
"""


@pytest.mark.parametrize("name", ["conda-lock", "py-rattler", "py-rattler-build"])
def test_dependencies_whose_internals_are_used_are_capped(name: str) -> None:
    """When this cap is raised, read `locking.conda_lock` and `core.process_exit` and see what may go."""
    (requirement,) = [
        each for text in requires("torchlocks") or () if (each := Requirement(text)).name == name and not each.marker
    ]
    assert any(part.operator == "<" for part in requirement.specifier)
    assert requirement.specifier.contains(version(name))


def test_conda_lock_still_calls_its_executable_through_this_module() -> None:
    assert conda_solver.subprocess is subprocess
    assert isinstance(invoke_conda.CONDA_PKGS_DIRS, str) or callable(invoke_conda.conda_pkgs_dir)


def test_conda_lock_still_leaves_its_virtual_packages_where_no_exit_functions_run(tmp_path: Path) -> None:
    """Once this fails, `virtual_repository` need not choose the folder."""
    specification, folder = tmp_path / "virtual.yml", tmp_path / "tmp"
    specification.write_text("subdirs:\n  linux-64:\n    packages:\n      __glibc: '2.28'\n")
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "RUNNER_TEMP"}
    command = [sys.executable, "-W", "ignore", "-c", MAKE_VIRTUAL_REPOSITORY, str(specification)]
    subprocess.run(command, env={**environment, "TMPDIR": str(folder)}, check=True)
    assert list(folder.iterdir())

"""Find the recipes whose package is their wheel's files and nothing else."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import Any

from torchlocks.local_channel.wheels import Wheel

SOURCE = {"url": "${{ wheel_url }}", "sha256": "${{ wheel_sha256 }}", "file_name": "${{ wheel_file }}"}
SCRIPT = "${{ pip }} install --no-deps --no-index --no-compile --find-links . ${{ distribution }}"

PARTS = {"schema_version", "context", "package", "source", "build", "requirements", "tests", "about"}
BUILD = {"number", "string", "noarch", "script", "files", "python", "dynamic_linking"}
PYTHON = {"entry_points", "skip_pyc_compilation", "version_independent"}
TESTS = {"python", "script"}
"""The keys of a recipe, of its build, of what that has of Python, and of a test, whose effect is known here."""


def is_plain(document: Any, wheel: Wheel) -> bool:
    """Whether the recipe `document`, not rendered, installs its wheel with pip, unchanged, and does nothing else.

    Such a package is made without being installed first (`wheel_package.py`). Every other recipe is the engine's: one
    with another script or source, with a key that is not known here, or whose wheel has more than files to be copied.
    """
    if os.name != "posix" or wheel.scripts is None or not isinstance(document, dict):
        return False
    build, needs = document.get("build"), document.get("requirements")
    if not isinstance(build, dict) or not isinstance(needs, dict):
        return False
    return (
        document.keys() <= PARTS
        and document.get("source") == SOURCE
        and build.keys() <= BUILD
        and build.get("script") in (SCRIPT, [SCRIPT])
        and needs.keys() <= {"host", "run"}
        and needs.get("host") == ["python"]
        and not {"license_file"} & (document.get("about") or {}).keys()
        and all(_is_plain_test(test) for test in document.get("tests") or [])
        and _has_plain_files(build, wheel)
    )


def _is_plain_test(test: Any) -> bool:
    """Whether a test has no files of its own."""
    return isinstance(test, dict) and test.keys() <= TESTS and isinstance(test.get("script", []), (str, list))


def _has_plain_files(build: dict[str, Any], wheel: Wheel) -> bool:
    """Whether the engine would package the wheel's files as they are, and its programs as pip writes them."""
    python, chosen = build.get("python") or {}, build.get("files") or {}
    if not isinstance(python, dict) or not isinstance(chosen, dict) or not python.keys() <= PYTHON:
        return False
    as_it_is = python.get("skip_pyc_compilation") == ["**/*.py"] and build.get("dynamic_linking") == {
        "binary_relocation": False
    }
    if build.get("noarch") == "python" or python.get("version_independent") is True:
        # Installers make the programs that the recipe names; there are none in the package.
        declared = {str(entry).split("=")[0].strip() for entry in python.get("entry_points") or []}
        patterns = [str(pattern) for pattern in chosen.get("exclude", [])]
        return (
            (as_it_is or wheel.kind == "pure")
            and chosen.keys() <= {"exclude"}
            and all(pattern.startswith("bin/") for pattern in patterns)
            and all(
                any(fnmatchcase(f"bin/{name}", pattern) for pattern in patterns)
                for name in (wheel.scripts or frozenset()) - declared
            )
        )
    return as_it_is and "noarch" not in build and not chosen and not python.get("entry_points")

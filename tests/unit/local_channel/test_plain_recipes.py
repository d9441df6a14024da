"""Which packages are made of their wheel without installing it, and which are left to the engine and pip."""

from __future__ import annotations

import copy
import os
import sys
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from torchlocks.core.errors import RecipeError
from torchlocks.local_channel.pins import Pin
from torchlocks.local_channel.plain import SCRIPT, is_plain
from torchlocks.local_channel.wheel_layout import in_order, wheel_layout
from torchlocks.local_channel.wheel_package import package_wheel
from torchlocks.local_channel.wheels import Wheel

RECIPES = Path(__file__).resolve().parents[3] / "recipes" / "local"
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
posix = pytest.mark.skipif(os.name != "posix", reason="wheels are copied on POSIX systems only")


def wheel(*scripts: str, kind: Any = "pure", copied: bool = True) -> Wheel:
    return Wheel(
        pin=Pin(name="a", version=Version("1"), hashes=frozenset(), marker=None, where="pins.txt:1"),
        path=Path("a-1-py3-none-any.whl"),
        sha256="0" * 64,
        requires_python="*",
        requires=(),
        license="MIT",
        summary="a",
        glibc=None,
        kind=kind,
        newest=datetime(2020, 1, 1, tzinfo=timezone.utc),
        scripts=frozenset(scripts) if copied else None,
    )


def recipe(name: str) -> Any:
    return yaml.safe_load((RECIPES / name / "recipe.yaml").read_text(encoding="utf-8"))


@posix
@pytest.mark.parametrize("name", sorted(path.parent.name for path in RECIPES.glob("*/recipe.yaml")))
def test_the_committed_recipes_do_no_more_than_install_their_wheels(name: str) -> None:
    document = recipe(name)
    compiled = "noarch" not in document["build"]
    entries = document["build"].get("python", {}).get("entry_points", [])
    found = wheel(*(entry.split(" = ")[0] for entry in entries), kind="compiled" if compiled else "pure")
    assert is_plain(document, found) == (name != "python")


def changed(base: str, path: str, value: object) -> Any:
    document = copy.deepcopy(recipe(base))
    *parents, last = path.split(".")
    place = document
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return document


@posix
@pytest.mark.parametrize(
    ("base", "path", "value"),
    [
        ("sympy", "build.script", [SCRIPT, "rm -r $PREFIX/x"]),
        ("sympy", "build.script", ["pip install ."]),
        ("sympy", "source", [{"url": "https://example.org/a.tar.gz"}]),
        ("sympy", "source.patches", ["a.patch"]),
        ("sympy", "requirements.host", ["python", "numpy"]),
        ("sympy", "requirements.build", ["make"]),
        ("sympy", "build.files", ["bin/*"]),
        ("sympy", "build.files", {"exclude": ["site-packages/**"]}),
        ("sympy", "build.python.entry_points", []),
        ("sympy", "build.python.use_python_app_entrypoint", True),
        ("sympy", "build.post_process", []),
        ("sympy", "about.license_file", "LICENSE"),
        ("sympy", "tests", [{"script": ["true"], "files": {"recipe": ["test.py"]}}]),
        ("sympy", "tests", [{"script": {"file": "test.sh"}}]),
        ("sympy", "outputs", []),
        ("numpy", "build.python", {}),
        ("numpy", "build.dynamic_linking", {}),
        ("numpy", "build.noarch", "generic"),
        ("numpy", "build.files", {"exclude": ["bin/f2py"]}),
    ],
)
def test_a_recipe_that_does_anything_else_is_the_engines(base: str, path: str, value: object) -> None:
    found = wheel("isympy") if base == "sympy" else wheel("f2py", kind="compiled")
    assert is_plain(recipe(base), found)
    assert not is_plain(changed(base, path, value), found)


@posix
def test_a_program_that_a_noarch_recipe_does_not_name_is_the_engines() -> None:
    assert not is_plain(recipe("sympy"), wheel("isympy", "other"))
    assert is_plain(recipe("pip"), wheel("pip", "pip3", f"pip{THIS}"))
    assert not is_plain(recipe("pip"), wheel("pip", "pip3", "pip-other"))
    assert not is_plain(recipe("sympy"), wheel("isympy", kind="compiled")), "its libraries would be relocated"
    assert not is_plain(recipe("sympy"), wheel(copied=False))
    nothing: tuple[Any, ...] = (None, [], {}, {"build": [], "requirements": {}})
    for nonsense in nothing:
        assert not is_plain(nonsense, wheel())


def archive(path: Path, *names: str, entry_points: str = "") -> zipfile.ZipFile:
    with zipfile.ZipFile(path, "w") as made:
        for name in ("a-1.dist-info/RECORD", *names):
            made.writestr(name, "")
        if entry_points:
            made.writestr("a-1.dist-info/entry_points.txt", entry_points)
    return zipfile.ZipFile(path)


def test_files_of_a_wheel_go_where_an_installer_puts_them(tmp_path: Path) -> None:
    names = ("a/x.py", "a-1.data/platlib/a/y.so", "a-1.data/data/share/doc/a")
    points = "[console_scripts]\na = a:main\nPip = b.c:d.e\npip3.99=a:q\npip=a:p\n[other]\nx = y\n"
    with archive(tmp_path / "a.whl", *names, entry_points=points) as opened:
        layout = wheel_layout(opened)
    assert layout is not None
    assert layout.site_packages.items() >= {"a/x.py": "a/x.py", "a/y.so": "a-1.data/platlib/a/y.so"}.items()
    assert layout.root == {"share/doc/a": "a-1.data/data/share/doc/a"}
    assert layout.scripts == {"a": "a:main", "Pip": "b.c:d.e", "pip": "a:p", "pip3": "a:p", f"pip{THIS}": "a:p"}


@pytest.mark.parametrize(
    "name",
    [
        "a-1.data/scripts/a",
        "a-1.data/headers/a.h",
        "a-1.data/data/bin/a",
        "a-1.data/data/lib/a.so",
        "a-1.data/purelib/a-1.dist-info/RECORD",
        "a/__pycache__/x.cpython-311.pyc",
        "a-1.dist-info/INSTALLER",
        "b-2.dist-info/RECORD",
        "../outside",
        "/etc/passwd",
        "a/../../x",
        "a\\x",
        "a//x",
    ],
)
def test_a_wheel_with_more_than_files_to_copy_is_installed(tmp_path: Path, name: str) -> None:
    with archive(tmp_path / "a.whl", name) as opened:
        assert wheel_layout(opened) is None


@pytest.mark.parametrize(
    "points",
    [
        "[gui_scripts]\na = a:main\n",
        "[console_scripts]\na = a\n",
        "[console_scripts]\na = a:main [extra]\n",
        "[console_scripts]\na = a : main\n",
        "[console_scripts]\n../a = a:main\n",
        "[console_scripts]\neasy_install = a:main\n",
        "no section\n",
        "[console_scripts]\na = a:main\na = a:other\n",
    ],
)
def test_unusual_programs_are_written_by_pip(tmp_path: Path, points: str) -> None:
    with archive(tmp_path / "a.whl", entry_points=points) as opened:
        assert wheel_layout(opened) is None


def test_a_wheel_that_must_be_installed_is_refused(tmp_path: Path) -> None:
    from test_channel_repack import conda_file

    metadata = conda_file(tmp_path / "metadata.conda", "/prefix", built=1)
    archive(tmp_path / "a.whl", "../outside").close()
    with pytest.raises(RecipeError, match=r"a\.whl"):
        package_wheel(metadata, tmp_path / "a.whl", tmp_path / "a-1-0.conda", 1_700_000_000)


def test_paths_are_in_the_engines_order() -> None:
    assert in_order(["a-b/x", "a.py", "a/z", "a/B", "é"]) == ["a/B", "a/z", "a-b/x", "a.py", "é"]

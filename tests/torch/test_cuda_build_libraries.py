"""The CUDA libraries of the environment, each loaded in a process of its own; no GPU and no driver is needed."""

from __future__ import annotations

import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from torchsuite import cuda_library, cuda_versions, skips
from torchsuite.cuda_library import DRIVER, Loaded
from torchsuite.expect import Expectation, Package
from torchsuite.imports import Imports
from torchsuite.prefix import Prefix, is_cuda_file, is_cuda_package
from torchsuite.tiers import Measure, check

#: Two at a time: most of the work is the disk's.
AT_A_TIME = 2


@pytest.fixture(scope="module")
def loaded(prefix: Prefix) -> tuple[Loaded, ...]:
    """Every CUDA library of the prefix, once, however many links lead to it."""
    files = {(prefix.root / path).resolve() for path in prefix.files if is_cuda_file(path) and _is_asked(path)}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return tuple(pool.map(cuda_library.ask, sorted(files)))


def _is_asked(path: str) -> bool:
    return cuda_library.is_asked(path)


@check("a CUDA library that does not load is missed at the first operation that needs it", accelerator="cuda")
def test_every_library_loads(loaded: tuple[Loaded, ...], measure: Measure) -> None:
    # The driver's library is the machine's: what needs it is loaded where there is a driver.
    waiting = [library for library in loaded if library.error and "libcuda.so.1" in library.error]
    measure("libraries", len(loaded))
    measure("needs_a_driver", sorted(library.path.name for library in waiting))
    broken = [f"{library.path.name}: {library.error}" for library in loaded if library.error and library not in waiting]
    assert not broken, f"{len(broken)} of {len(loaded)} CUDA libraries do not load: {'; '.join(broken)}"
    if not loaded:
        skips.skip(skips.Reason.ABSENT, "the environment has no CUDA libraries of its own: torch has them built in")


@check("CUDA libraries of the system replace those of the lock", accelerator="cuda")
def test_libraries_come_from_the_prefix(loaded: tuple[Loaded, ...], imports: Imports, prefix: Prefix) -> None:
    root = prefix.root.resolve()
    by_torch = imports.get("torch").seen.get("libraries", [])
    pulled = [(library.path.name, path) for library in loaded for path in library.libraries]
    pulled += [("torch", path) for path in by_torch]
    outside = {
        path: user
        for user, path in pulled
        if is_cuda_file(path) and not DRIVER.match(Path(path).name) and not Path(path).resolve().is_relative_to(root)
    }
    shown = ", ".join(f"{path} (for {user})" for path, user in sorted(outside.items()))
    assert not outside, f"CUDA from outside the environment: {shown}"


BRING_THEIR_OWN = ("torchvision", "torchaudio")
"""Packages whose wheels contain copies of CUDA libraries under other names (libcudart.45e7f3ed.so.12)."""


@check("a library of another version than its package's was put there by hand, or by another tool", accelerator="cuda")
def test_library_versions(
    loaded: tuple[Loaded, ...], prefix: Prefix, expectation: Expectation, measure: Measure
) -> None:
    wrong, root = [], prefix.root.resolve()
    owners = {(prefix.root / path).resolve(): record for path, record in prefix.owners.items() if is_cuda_file(path)}
    for library in loaded:
        if library.version is None:
            continue
        shown = ".".join(map(str, library.version))
        measure(library.path.name, shown)
        record = owners.get(library.path)
        owner = Package(record.name, record.version, record.build) if record else _distribution(library.path)
        if owner is None or owner.name in cuda_versions.WHOLE_TOOLKITS or owner.name in BRING_THEIR_OWN:
            continue
        locked = expectation.package(owner.name) or owner
        if not cuda_versions.agree(library.version, locked.version):
            where = library.path.relative_to(root) if library.path.is_relative_to(root) else library.path
            wrong.append(f"{where} is {shown}, the lock has {locked.name} {locked.version}")
    assert not wrong, "; ".join(wrong)


@check("CUDA libraries of two versions in one environment: which one is loaded is left to chance", accelerator="cuda")
def test_one_of_each(loaded: tuple[Loaded, ...], prefix: Prefix) -> None:
    places: dict[str, list[str]] = {}
    for library in loaded:
        # Triton brings a profiler of its own, which is loaded by its path and by nobody else.
        if "/triton/" not in library.path.as_posix():
            places.setdefault(library.path.name.split(".so")[0], []).append(str(library.path))
    twice = {name: paths for name, paths in places.items() if len(paths) > 1}
    shown = "; ".join(", ".join(paths) for paths in twice.values())
    assert not twice, f"more than one {', '.join(sorted(twice))}: {shown}"


@cache
def _distributions() -> dict[Path, Package]:
    """The CUDA libraries that pip installed, with their packages; conda's have records."""
    found = {}
    for distribution in importlib.metadata.distributions():
        if is_cuda_package(name := str(distribution.metadata["Name"])):
            for file in distribution.files or ():
                if is_cuda_file(file.as_posix()):
                    path = Path(str(distribution.locate_file(file))).resolve()
                    found[path] = Package(name, distribution.version, "")
    return found


def _distribution(path: Path) -> Package | None:
    return _distributions().get(path)

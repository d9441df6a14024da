"""Explain why a package is in a lock: the chains of dependencies from the requested packages to it."""

from __future__ import annotations

import heapq
import json
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING

from torchlocks.core.errors import LockfileError
from torchlocks.lockfile.models import Lock, LockedPackage
from torchlocks.lockfile.specs import spec_name

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, kw_only=True)
class Step:
    """One package of a chain, and the match spec by which the previous step (or the user) requires it.

    `version` and `build` are empty for a virtual package.
    """

    name: str
    version: str
    build: str
    spec: str


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The packages from a requested one, first, to the package in question, last."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A package that restricts the versions of another: by a dependency, or by a constraint only."""

    package: str
    spec: str
    needs: bool


@dataclass(frozen=True, kw_only=True)
class Why:
    """The answer. `assumed`: the requested packages are not known, and packages without dependents are used instead.

    `chains` are the shortest first; `more` is whether there are others. `limits` are all restrictions on its
    version.
    """

    name: str
    platform: str
    chains: tuple[Chain, ...]
    more: bool
    limits: tuple[Limit, ...]
    assumed: bool


def why(lock: Lock, platform: str, name: str, requested: Sequence[str] | None = None, most: int = 10) -> Why:
    """Explain a package, or a virtual package such as `__cuda`, of one platform of a lock.

    `requested` are the requested match specs, if they are known. At most `most` chains are returned. Raises
    LockfileError if the lock has no such platform or package, or no dependencies.
    """
    packages = _packages(lock, platform)
    by_name = {package.name: package for package in packages}
    name = name.lower()
    edges = edges_of(packages)
    if name not in by_name and not any(name in needs for needs in edges.values()):
        near = get_close_matches(name, by_name, n=3)
        raise LockfileError(
            f"There is no {name} in the lock.",
            where=f"{lock.path}, platform {platform}",
            fix=f"did you mean {', '.join(near)}?" if near else None,
        )
    asked = {spec_name(spec): spec for spec in requested} if requested is not None else _tops(by_name, edges)
    chains: list[Chain] = []
    more = False
    for chain in _chains(asked, edges, by_name, name):
        if len(chains) == most:
            more = True
            break
        chains.append(chain)
    return Why(
        name=name,
        platform=platform,
        chains=tuple(chains),
        more=more,
        limits=tuple(_limits(packages, name)),
        assumed=requested is None,
    )


def _packages(lock: Lock, platform: str) -> tuple[LockedPackage, ...]:
    if platform not in lock.packages:
        raise LockfileError(
            f"The lock has no platform {platform}.", where=str(lock.path), fix=f"it has {', '.join(lock.platforms)}."
        )
    packages = lock.packages[platform]
    if any(package.depends is None for package in packages):
        raise LockfileError(
            "Explicit files do not list the dependencies of their packages.",
            where=str(lock.path),
            fix="use the conda-lock.yml or the pixi.lock of the same environment.",
        )
    return packages


def edges_of(packages: Iterable[LockedPackage]) -> dict[str, dict[str, str]]:
    """Return the dependencies of each package: name to spec."""
    return {
        package.name: {spec_name(spec): spec for spec in package.depends or () if spec.strip()} for package in packages
    }


def _tops(by_name: dict[str, LockedPackage], edges: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the packages without dependents, as a substitute for unknown requests."""
    needed = {name for package, needs in edges.items() for name in needs if name != package}
    return {name: name for name in by_name if name not in needed}


def _chains(
    asked: dict[str, str], edges: dict[str, dict[str, str]], by_name: dict[str, LockedPackage], target: str
) -> Iterator[Chain]:
    """Yield all chains without a cycle, shortest first and then by name.

    A best-first search: `remaining` is the exact number of remaining steps if cycles are allowed, so that no
    chain is found before a shorter one, and dead ends are not entered.
    """
    remaining = _distances(edges, target)
    waiting: list[tuple[int, tuple[str, ...]]] = [
        (remaining[name], (name,)) for name in asked if name in remaining and (name in by_name or name == target)
    ]
    heapq.heapify(waiting)
    while waiting:
        _, path = heapq.heappop(waiting)
        if path[-1] == target:
            specs = [asked[path[0]], *(edges[a][b] for a, b in pairwise(path))]
            yield Chain(
                steps=tuple(_step(by_name.get(name), name, spec) for name, spec in zip(path, specs, strict=True))
            )
            continue
        for name in edges.get(path[-1], {}):
            if name in remaining and name not in path:
                heapq.heappush(waiting, (len(path) + remaining[name], (*path, name)))


def _distances(edges: dict[str, dict[str, str]], target: str) -> dict[str, int]:
    """Return the smallest number of steps from each package to `target`, for those that depend on it."""
    needed_by: dict[str, list[str]] = defaultdict(list)
    for package, needs in edges.items():
        for name in needs:
            needed_by[name].append(package)
    distances = {target: 0}
    waiting = deque([target])
    while waiting:
        name = waiting.popleft()
        for package in needed_by[name]:
            if package not in distances:
                distances[package] = distances[name] + 1
                waiting.append(package)
    return distances


def _step(package: LockedPackage | None, name: str, spec: str) -> Step:
    if package is None:
        return Step(name=name, version="", build="", spec=spec)
    return Step(name=name, version=package.version, build=package.build, spec=spec)


def _limits(packages: Iterable[LockedPackage], name: str) -> Iterator[Limit]:
    for package in sorted(packages, key=lambda package: package.name):
        for specs, needs in ((package.depends, True), (package.constrains, False)):
            for spec in specs or ():
                if spec_name(spec) == name:
                    yield Limit(package=f"{package.name} {package.version}", spec=spec, needs=needs)


def as_text(answer: Why) -> RenderableType:
    """Return the answer for a terminal."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    if not answer.chains:
        parts.append(Text(f"No requested package depends on {answer.name}.", style="yellow"))
    for chain in answer.chains:
        line = Text()
        for index, step in enumerate(chain.steps):
            line.append(" → " if index else "", style="dim")
            line.append(f"{step.name} {step.version}".strip(), style="bold" if step.name == answer.name else "")
        last = chain.steps[-1].spec
        line.append(f"   requested as {last!r}" if len(chain.steps) == 1 else f"   by {last!r}", style="dim")
        parts.append(line)
    if answer.more:
        parts.append(Text("… and longer chains.", style="dim"))
    if answer.assumed:
        parts.append(Text("The requested packages are not known; chains begin at packages without dependents."))
    narrowing: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for limit in answer.limits:
        # "conda-forge::numpy" or "numpy" alone leaves every version open.
        if len(limit.spec.split()) > 1 and limit.package not in narrowing[limit.needs, limit.spec]:
            narrowing[limit.needs, limit.spec].append(limit.package)
    narrowed = {key: packages for key, packages in narrowing.items() if packages}
    if narrowed:
        parts += [Text(), Text(f"What narrows {answer.name}:", style="bold")]
    for (needs, spec), packages in sorted(narrowed.items(), key=lambda item: (-len(item[1]), item[0])):
        some = ", ".join(packages[:4]) + (f" and {len(packages) - 4} more" if len(packages) > 4 else "")
        one = len(packages) == 1
        verb = ("needs" if one else "need") if needs else ("allows only" if one else "allow only")
        parts.append(Text(f"  {some} {verb} {spec}"))
    return Group(*parts)


def as_json(answer: Why) -> str:
    """Return the answer as JSON. `schema` changes when a key changes its meaning."""
    return json.dumps({"schema": 1, **asdict(answer)}, indent=2) + "\n"

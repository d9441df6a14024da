"""Why requirements and a base have no common solution, and the smallest change that gives them one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from torchlocks.core.errors import BaseLockError, ContradictionError, SolveError, TorchlocksError
from torchlocks.core.progress import Progress
from torchlocks.cuda.packages import torch_package, variant_of
from torchlocks.extend.base import virtual_packages
from torchlocks.extend.environment_file import Requirement
from torchlocks.extend.relaxation import CORE, Way, attempt, in_the_way, shrink, smallest
from torchlocks.extend.solve import ExtendRequest, solve_on_base, without_base
from torchlocks.extend.wording import LINES, NAMED, against, count, label, named, reasons_of, some, version_of
from torchlocks.lockfile.specs import parse_spec


def explain(
    request: ExtendRequest, error: TorchlocksError, also: Sequence[ExtendRequest], progress: Progress
) -> TorchlocksError:
    """Return the error for a request without a solution: both sides by name, and the smallest change that solves it.

    `error` is the solver's own. `also` are the same requirements on other platforms without a solution; the advice is
    sufficient there too where any is. Returns a ContradictionError, a SolveError for a requirement that no channel
    satisfies, or a BaseLockError for a base that does not solve by itself.
    """
    progress.say("There is no solution; searching for the smallest change that gives one")
    if attempt(request, ()) is None:
        return BaseLockError(
            f"The base {request.base.name.text} does not solve by itself on {request.platform}.",
            fix="check it with `torchlocks check`, and use another",
            details=error.details,
        )
    every = [requirement.spec for requirement in request.requirements]
    alone = [requirement for requirement in request.requirements if attempt(request, [requirement.spec]) is None]
    notes = []
    if also:
        notes.append(f"There is no solution for {', '.join(other.platform for other in also)} either.")
    if (free := attempt(request, every, moves=request.by_name)) is not None:
        culprits = alone or shrink(request)
        way = smallest(request, every, free)
        elsewhere, but_on = _moves_elsewhere(also)
        moves = way.moves | elsewhere
        reasons = reasons_of(request, culprits, way, among=sorted(way.moves))
        return ContradictionError(
            f"{named(culprits)} cannot go with {against(request)}: {'; '.join(reasons)}.",
            fix="\nor ".join([_let_move(request, way, moves, but_on), *_looser(request, culprits, alone)]),
            details=_details(notes, error),
        )
    # Not even a base that is free to move makes room for all: explain the first requirement for which it does not.
    hopeless = [
        requirement for requirement in alone if attempt(request, [requirement.spec], moves=request.by_name) is None
    ]
    return _impossible(request, hopeless[:1] or shrink(request), alone, notes)


def brought_by_base(request: ExtendRequest) -> ContradictionError | None:
    """Return the error for requirements that select a build of torch, which the base already has; None without any.

    These are `pytorch-cuda`, `cudatoolkit` and `cpuonly` where the base does not contain them, and packages of the base
    that are required from another channel. No solve is needed: they come from the instructions of another installation.
    """
    base = request.by_name
    torch = torch_package(request.base.lock.packages[request.platform])
    if torch is None:
        return None
    variant = variant_of(torch.build)
    reasons, fixes = [], []
    for requirement in request.requirements:
        if requirement.name in _SWITCHES and requirement.name not in base:
            reasons.append(f"{named([requirement])} selects a build of torch, which the base brings")
            fixes.append(f"drop the line `{requirement.spec}`")
            version = re.search(r"\d+\.\d+", requirement.spec.partition(requirement.name)[2])
            wanted = "the CPU" if requirement.name == "cpuonly" else f"CUDA {version[0]}" if version else None
            here = "the CPU" if variant and variant.accelerator == "cpu" else f"CUDA {variant.cuda}" if variant else ""
            if wanted and here and wanted != here:
                fixes[-1] += f", or build on a base for {wanted}: this one is for {here}"
        elif (there := _other_channel(request, requirement)) is not None:
            reasons.append(
                f"{named([requirement])} names a channel, and the base has {label(base[requirement.name])} from {there}"
            )
            fixes.append(f"write `{requirement.spec.partition('::')[2]}` without the channel")
    if not reasons:
        return None
    name = f"{torch.name} {torch.version}" + (f" for {variant}" if variant else "")
    return ContradictionError(
        f"The base {request.base.name.text} brings {name} on {request.platform}: {'; '.join(reasons)}.",
        fix="; ".join(fixes),
    )


def _other_channel(request: ExtendRequest, requirement: Requirement) -> str | None:
    """Return the channel of the base's package where a requirement names another; None otherwise, or if it may move."""
    parsed, held = parse_spec(requirement.spec), request.by_name.get(requirement.name)
    if parsed is None or parsed.channel is None or held is None or requirement.name in request.moves:
        return None
    there = held.url.rsplit("/", 2)[0]
    return None if (parsed.channel.base_url or "").rstrip("/") == there else there.rsplit("/", 1)[-1]


_SWITCHES = frozenset({"pytorch-cuda", "cudatoolkit", "cpuonly"})
"""Packages that are requested to select a build of torch."""

_PRIORITY = re.compile(
    r"(\S+) \S+ is excluded because due to strict channel priority not using this option from: '([^']+)'"
)


def _by_priority(request: ExtendRequest, error: TorchlocksError) -> str | None:
    """Return which packages strict channel priority excluded, as a clause; None if it excluded none."""
    found = dict.fromkeys(_PRIORITY.findall(error.details or ""))
    if not found:
        return None
    clauses = [f"{name} is not taken from {url.rstrip('/').rsplit('/', 1)[-1]}" for name, url in found]
    order = ", ".join(channel.rstrip("/").rsplit("/", 1)[-1] for channel in request.channels)
    return f"{some(clauses)}, since a channel before it has that name (the order is {order})"


def _moves_elsewhere(requests: Sequence[ExtendRequest]) -> tuple[frozenset[str], list[str]]:
    """Return the base packages that must move on other platforms, and the platforms that no move solves."""
    moves: frozenset[str] = frozenset()
    hopeless = []
    for request in requests:
        every = [requirement.spec for requirement in request.requirements]
        free = attempt(request, every, moves=request.by_name)
        if free is None:
            hopeless.append(request.platform)
        else:
            moves |= smallest(request, every, free).moves
    return moves, hopeless


def _impossible(
    request: ExtendRequest, culprits: Sequence[Requirement], alone: Sequence[Requirement], notes: Sequence[str]
) -> TorchlocksError:
    """Return the error where no move of the base helps: unavailable anywhere, or incompatible with these packages."""
    specs = [requirement.spec for requirement in culprits]
    if machine := [requirement for requirement in culprits if requirement.name.startswith("__")]:
        return _machine(request, machine, notes)
    try:
        without = without_base(request, specs)
    except SolveError as error:
        if (priority := _by_priority(request, error)) is not None:
            return SolveError(
                f"{named(culprits)} cannot be had on {request.platform} because of channel priority: {priority}.",
                fix="ask for what the first channel has of it\nor build on a base with another order of channels",
                details=_details(notes, error),
            )
        return SolveError(
            f"{named(culprits)} cannot be had on {request.platform}, on whatever base: "
            f"nothing in {' or '.join(request.channels)} matches.",
            fix=_spelling(request, culprits) or "ask for another version, or add the channel that has it",
            details=_details(notes, error),
        )
    base, new = request.by_name, {record.name.normalized: record for record in without}
    way = Way(moves=frozenset(in_the_way(base, specs, new)), records=(*base.values(), *without))
    reasons = reasons_of(request, culprits, way, among=sorted(base)) if way.moves else []
    try:
        solve_on_base(request, specs=specs, moves=request.by_name)
        details = "\n".join(notes)
    except SolveError as error:
        details = _details(notes, error)
    why = "; ".join(reasons[:2]) or "the channels have no versions of them all that go together"
    return ContradictionError(
        f"{named(culprits)} cannot go with {against(request)}, whatever of it may move: {why}.",
        fix="\nor ".join([*_looser(request, culprits, alone), "build on another base"]),
        details=details,
    )


def _machine(request: ExtendRequest, requirements: Sequence[Requirement], notes: Sequence[str]) -> TorchlocksError:
    """Return the error for requirements of virtual packages (`__glibc >=2.34`) that the base's machines lack."""
    has = virtual_packages(request.base.lock, request.platform)
    asked = dict.fromkeys(requirement.name for requirement in requirements)
    there = " and ".join(f"{name} {has[name]}" if name in has else f"no {name}" for name in asked)
    return ContradictionError(
        f"{named(requirements)} cannot go with {against(request)}, which is for every machine with {there}.",
        fix="leave it out: the lock installs there all the same\nor build on a base that was solved for such machines",
        details="\n".join(notes) or None,
    )


def _spelling(request: ExtendRequest, culprits: Sequence[Requirement]) -> str | None:
    """Return a hint with similar names if no channel has a package of a required name; None otherwise."""
    subdirs = (request.platform, "noarch")
    known = {
        name
        for channel in request.channels
        for repodata in request.source.sparse(channel, subdirs)
        for name in repodata.package_names()
    }
    for requirement in culprits:
        if requirement.name not in known:
            near = get_close_matches(requirement.name, known, n=3)
            return f"there is no package {requirement.name!r}" + (
                f": did you mean {' or '.join(near)}?" if near else ""
            )
    return None


def _details(notes: Sequence[str], error: TorchlocksError) -> str:
    """Return the notes and the solver's reasons, limited to `LINES` lines."""
    lines = (error.details or error.what).splitlines()
    rest = [f"… and {len(lines) - LINES} more lines"] if len(lines) > LINES else []
    return "\n".join([*notes, "The solver's reasons:", *lines[:LINES], *rest])


def _let_move(request: ExtendRequest, way: Way, moves: frozenset[str], hopeless: Sequence[str]) -> str:
    """Return the advice to let `moves` move (`way` is this platform's part), or to take another base if its core
    would move.

    On the platforms `hopeless` no move is sufficient, and the advice states it.
    """
    base, new = request.by_name, way.by_name
    changes = some([f"{label(base[name])} → {version_of(new[name], base[name])}" for name in sorted(way.moves)])
    core = sorted(moves & CORE)
    if core or len(moves) > NAMED:
        main = f", {' and '.join(core)} among them" if core else ""
        return f"build on another base: on this one {count(len(moves))} would have to move{main} ({changes})"
    options = " ".join(f"--allow-move {name}" for name in sorted(moves))
    but = f"; on {', '.join(hopeless)} nothing that could move would help" if hopeless else ""
    return f"let {' and '.join(sorted(moves))} move, and nothing else of the base: {options} ({changes}){but}"


def _looser(request: ExtendRequest, culprits: Sequence[Requirement], alone: Sequence[Requirement]) -> list[str]:
    """Return advice to drop the version of a requirement, for each where that is sufficient.

    `alone` are the requirements that fail by themselves: all of them have to be relaxed.
    """
    found = []
    for requirement in culprits:
        if requirement.spec.strip() == requirement.name:
            continue
        others = [other.spec for other in request.requirements if other is not requirement and other not in alone]
        records = attempt(request, [*others, requirement.name])
        if records is not None:
            record = next(record for record in records if record.name.normalized == requirement.name)
            whose = "the base's own" if requirement.name in request.by_name else "which goes with the base"
            found.append(f"ask for plain `{requirement.name}`: that gives {label(record)}, {whose}")
    if len(alone) < 2:
        return found
    return [", and ".join(found)] if len(found) == len(alone) else []

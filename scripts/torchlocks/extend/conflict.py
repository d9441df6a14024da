"""Why a wish and a base cannot go together, and the smallest change with which they could.

The solver is asked again and again, each time a little more freely: which wishes fail alone, what they would take if
all of the base could move, and how little of it has to. Its own words come last, as details.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from torchlocks.core.errors import BaseLockError, ContradictionError, SolveError, TorchlocksError
from torchlocks.core.progress import Progress
from torchlocks.cuda.packages import torch_package, variant_of
from torchlocks.extend.base import virtual_packages
from torchlocks.extend.requested import Wish
from torchlocks.extend.solve import Question, answer, without_base
from torchlocks.lockfile.specs import parse_spec, spec_name

if TYPE_CHECKING:
    from rattler import PackageRecord, RepoDataRecord

CORE = frozenset({"python", "pytorch", "libtorch", "pytorch-cuda", "cuda-version", "cudatoolkit"})
"""Packages that make a base what it is: with another of these it is another base."""

_SINGLES, _SHRUNK = 12, 10
"""How many base packages are tried alone, and how large a set is tried to be made smaller."""

_NAMED, _LINES = 6, 30
"""How many packages a sentence names, and how many lines of the solver's are shown."""


@dataclass(frozen=True, kw_only=True)
class _Way:
    """A solution in which some of the base moves. `moves` is a set of names of which none can be left out."""

    moves: frozenset[str]
    records: tuple[RepoDataRecord, ...]

    @property
    def by_name(self) -> dict[str, RepoDataRecord]:
        return {record.name.normalized: record for record in self.records}


def explain(
    question: Question, error: TorchlocksError, also: Sequence[Question], progress: Progress
) -> TorchlocksError:
    """The reason for which a question has no answer, naming both sides and the smallest change that gives it one.

    `error` is the solver's own; `also` are the same wishes on other platforms where they have no answer either: what is
    advised is enough for them too, where anything is. Returns a ContradictionError, a SolveError for a wish that cannot
    be had on any base, or a BaseLockError for a base that does not fit together.
    """
    progress.say("These do not go together; looking for the smallest change with which they would")
    if _try(question, ()) is None:
        return BaseLockError(
            f"The base {question.base.name.text} does not solve by itself on {question.platform}.",
            fix="check it with `torchlocks check`, and use another",
            details=error.details,
        )
    every = [wish.spec for wish in question.wishes]
    alone = [wish for wish in question.wishes if _try(question, [wish.spec]) is None]
    notes = []
    if also:
        notes.append(f"There is no solution for {', '.join(other.platform for other in also)} either.")
    if (free := _try(question, every, moves=question.by_name)) is not None:
        culprits = alone or _shrink(question)
        way = _smallest(question, every, free)
        elsewhere, but_on = _moves_elsewhere(also)
        moves = way.moves | elsewhere
        reasons = _reasons(question, culprits, way, among=sorted(way.moves))
        return ContradictionError(
            f"{_named(culprits)} cannot go with {_against(question)}: {'; '.join(reasons)}.",
            fix="\nor ".join([_let_move(question, way, moves, but_on), *_looser(question, culprits, alone)]),
            details=_details(notes, error),
        )
    # Not even a base that is free to move makes room for all: explain the first wish for which it does not.
    hopeless = [wish for wish in alone if _try(question, [wish.spec], moves=question.by_name) is None]
    return _impossible(question, hopeless[:1] or _shrink(question), alone, notes)


def brought_by_base(question: Question) -> ContradictionError | None:
    """The answer to wishes that choose a torch, where the base brings its own; None where there are none.

    These are `pytorch-cuda`, `cudatoolkit` and `cpuonly`, where the base does not hold them, and packages of the base
    that are asked for from another channel. No solver has to be asked: they are the recipe of another installation.
    """
    base = question.by_name
    torch = torch_package(question.base.lock.packages[question.platform])
    if torch is None:
        return None
    variant = variant_of(torch.build)
    reasons, fixes = [], []
    for wish in question.wishes:
        if wish.name in _SWITCHES and wish.name not in base:
            reasons.append(f"{_named([wish])} selects a build of torch, which the base brings")
            fixes.append(f"drop the line `{wish.spec}`")
            version = re.search(r"\d+\.\d+", wish.spec.partition(wish.name)[2])
            wanted = "the CPU" if wish.name == "cpuonly" else f"CUDA {version[0]}" if version else None
            here = "the CPU" if variant and variant.accelerator == "cpu" else f"CUDA {variant.cuda}" if variant else ""
            if wanted and here and wanted != here:
                fixes[-1] += f", or build on a base for {wanted}: this one is for {here}"
        elif (there := _other_channel(question, wish)) is not None:
            reasons.append(f"{_named([wish])} names a channel, and the base has {_label(base[wish.name])} from {there}")
            fixes.append(f"write `{wish.spec.partition('::')[2]}` without the channel")
    if not reasons:
        return None
    name = f"{torch.name} {torch.version}" + (f" for {variant}" if variant else "")
    return ContradictionError(
        f"The base {question.base.name.text} brings {name} on {question.platform}: {'; '.join(reasons)}.",
        fix="; ".join(fixes),
    )


def _other_channel(question: Question, wish: Wish) -> str | None:
    """The channel of the base's package, where a wish asks for it from another; None where it does not, or may move."""
    parsed, held = parse_spec(wish.spec), question.by_name.get(wish.name)
    if parsed is None or parsed.channel is None or held is None or wish.name in question.moves:
        return None
    there = held.url.rsplit("/", 2)[0]
    return None if (parsed.channel.base_url or "").rstrip("/") == there else there.rsplit("/", 1)[-1]


_SWITCHES = frozenset({"pytorch-cuda", "cudatoolkit", "cpuonly"})
"""Packages that are asked for to choose between builds of torch."""

_PRIORITY = re.compile(
    r"(\S+) \S+ is excluded because due to strict channel priority not using this option from: '([^']+)'"
)


def _by_priority(question: Question, error: TorchlocksError) -> str | None:
    """Which packages were not looked at, since a channel before theirs has one of that name; None where none were."""
    found = dict.fromkeys(_PRIORITY.findall(error.details or ""))
    if not found:
        return None
    clauses = [f"{name} is not taken from {url.rstrip('/').rsplit('/', 1)[-1]}" for name, url in found]
    order = ", ".join(channel.rstrip("/").rsplit("/", 1)[-1] for channel in question.channels)
    return f"{_some(clauses)}, since a channel before it has that name (the order is {order})"


def _named(wishes: Sequence[Wish]) -> str:
    return " and ".join(f"`{wish.spec}` ({wish.place})" for wish in wishes)


def _against(question: Question) -> str:
    return f"the base {question.base.name.text} on {question.platform}"


def _moves_elsewhere(questions: Sequence[Question]) -> tuple[frozenset[str], list[str]]:
    """The base packages that must move on other platforms, and the platforms on which that is no help."""
    moves: frozenset[str] = frozenset()
    hopeless = []
    for question in questions:
        every = [wish.spec for wish in question.wishes]
        free = _try(question, every, moves=question.by_name)
        if free is None:
            hopeless.append(question.platform)
        else:
            moves |= _smallest(question, every, free).moves
    return moves, hopeless


# --- what the solver is asked -----------------------------------------------------------------------


def _try(question: Question, specs: Sequence[str], moves: Collection[str] | None = None) -> list[RepoDataRecord] | None:
    """A solution, or None where there is none; whatever else goes wrong is raised."""
    try:
        return answer(question, specs=specs, moves=moves)
    except SolveError as error:
        if not error.details:
            raise
        return None


def _shrink(question: Question) -> list[Wish]:
    """Wishes that fail together, of which none can be left out; each of them alone does not fail."""
    kept = list(question.wishes)
    for wish in question.wishes:
        fewer = [other for other in kept if other is not wish]
        if _try(question, [other.spec for other in fewer]) is None:
            kept = fewer
    return kept


def _smallest(question: Question, specs: Sequence[str], free: Sequence[RepoDataRecord]) -> _Way:
    """A small set of base packages that must move, of which none can be left out, and the solution with it.

    `free` is a solution in which all of the base may move. One package is tried first; then those that a wish or an
    addition cannot live with there, with ever more of the base packages that hold them, until there is a solution.
    """
    base = question.by_name
    new = {record.name.normalized: record for record in free}
    moved = {name for name, record in base.items() if new[name].url != record.url} - question.moves
    wanted = _in_the_way(base, specs, new) & moved
    needed = {spec_name(spec) for name in new.keys() - base.keys() for spec in new[name].depends} & base.keys()
    for name in [*sorted(wanted), *sorted(needed - wanted - CORE - question.moves)][:_SINGLES]:
        single = _try(question, specs, {name} | question.moves)
        if single is not None:
            return _Way(moves=frozenset({name}), records=tuple(single))
    moves = frozenset(wanted or moved)
    found = _try(question, specs, moves | question.moves)
    while found is None:
        holders = {name for name in moved - moves if any(_unmet(base[name], new[each]) for each in moves)}
        moves = frozenset(moves | holders) if holders else frozenset(moved)
        found = list(free) if moves == moved else _try(question, specs, moves | question.moves)
    if len(moves) <= _SHRUNK:
        for name in sorted(moves, key=lambda name: (name not in CORE, name)):
            fewer = moves - {name}
            if fewer and (less := _try(question, specs, fewer | question.moves)) is not None:
                moves, found = fewer, less
    return _Way(moves=moves, records=tuple(found))


def _in_the_way(base: dict[str, RepoDataRecord], specs: Sequence[str], new: dict[str, RepoDataRecord]) -> set[str]:
    """The base's packages that go neither with the match specs nor with the additions in `new`."""
    added = [record for name, record in new.items() if name not in base]
    return {
        name
        for name in base
        if any(spec_name(spec) == name and not _fits(base[name], spec) for spec in specs)
        or any(_unmet(record, base[name]) or _unmet(base[name], record) for record in added)
    }


# --- what is said -----------------------------------------------------------------------------------


def _impossible(
    question: Question, culprits: Sequence[Wish], alone: Sequence[Wish], notes: Sequence[str]
) -> TorchlocksError:
    """Nothing of the base could move to make room: either the wish cannot be had at all, or not with these packages."""
    specs = [wish.spec for wish in culprits]
    if machine := [wish for wish in culprits if wish.name.startswith("__")]:
        return _machine(question, machine, notes)
    try:
        without = without_base(question, specs)
    except SolveError as error:
        if (priority := _by_priority(question, error)) is not None:
            return SolveError(
                f"{_named(culprits)} cannot be had on {question.platform} because of channel priority: {priority}.",
                fix="ask for what the first channel has of it\nor build on a base with another order of channels",
                details=_details(notes, error),
            )
        return SolveError(
            f"{_named(culprits)} cannot be had on {question.platform}, on whatever base: "
            f"nothing in {' or '.join(question.channels)} fits.",
            fix=_spelling(question, culprits) or "ask for another version, or add the channel that has it",
            details=_details(notes, error),
        )
    base, new = question.by_name, {record.name.normalized: record for record in without}
    way = _Way(moves=frozenset(_in_the_way(base, specs, new)), records=(*base.values(), *without))
    reasons = _reasons(question, culprits, way, among=sorted(base)) if way.moves else []
    try:
        answer(question, specs=specs, moves=question.by_name)
        details = "\n".join(notes)
    except SolveError as error:
        details = _details(notes, error)
    why = "; ".join(reasons[:2]) or "the channels have no versions of them all that go together"
    return ContradictionError(
        f"{_named(culprits)} cannot go with {_against(question)}, whatever of it may move: {why}.",
        fix="\nor ".join([*_looser(question, culprits, alone), "build on another base"]),
        details=details,
    )


def _machine(question: Question, wishes: Sequence[Wish], notes: Sequence[str]) -> TorchlocksError:
    """Wishes for a virtual package (`__glibc >=2.34`) that the machines do not have for which the base was solved."""
    has = virtual_packages(question.base.lock, question.platform)
    asked = dict.fromkeys(wish.name for wish in wishes)
    there = " and ".join(f"{name} {has[name]}" if name in has else f"no {name}" for name in asked)
    return ContradictionError(
        f"{_named(wishes)} cannot go with {_against(question)}, which is for every machine with {there}.",
        fix="leave it out: the lock installs there all the same\nor build on a base that was solved for such machines",
        details="\n".join(notes) or None,
    )


def _spelling(question: Question, culprits: Sequence[Wish]) -> str | None:
    """Names like those asked for, where a channel has no package of that name at all."""
    subdirs = (question.platform, "noarch")
    known = {
        name
        for channel in question.channels
        for repodata in question.source.sparse(channel, subdirs)
        for name in repodata.package_names()
    }
    for wish in culprits:
        if wish.name not in known:
            near = get_close_matches(wish.name, known, n=3)
            return f"there is no package {wish.name!r}" + (f": did you mean {' or '.join(near)}?" if near else "")
    return None


def _details(notes: Sequence[str], error: TorchlocksError) -> str:
    """What else is to be said, and the solver's own reasons, which can be endless."""
    lines = (error.details or error.what).splitlines()
    rest = [f"… and {len(lines) - _LINES} more lines"] if len(lines) > _LINES else []
    return "\n".join([*notes, "The solver says:", *lines[:_LINES], *rest])


def _reasons(question: Question, culprits: Sequence[Wish], way: _Way, among: Sequence[str]) -> list[str]:
    """Clauses that name both sides: who wants another version of a base package, and who of `among` holds it."""
    base, new = question.by_name, way.by_name
    clauses = []
    for name in sorted(way.moves, key=lambda name: (name not in {wish.name for wish in culprits}, name)):
        demand = _demand(question, culprits, way, name)
        if demand is not None:
            held = _holders(base, [other for other in among if other != name], new[name])
            clauses.append(f"{demand}the base has {_label(base[name])}" + (f", {held}" if held else ""))
        elif excluded := next((r for n, r in new.items() if n not in base and _unmet(base[name], r)), None):
            spec = _unmet(base[name], excluded)
            clauses.append(f"{_label(base[name])} of the base goes with `{spec}` only, not with {_label(excluded)}")
    return clauses[:3] or [f"the base has {_some([_label(base[name]) for name in sorted(way.moves)])}"]


def _holders(base: dict[str, RepoDataRecord], names: Sequence[str], new: PackageRecord) -> str | None:
    """Which of the base's packages do not go with `new`, those first that make the base what it is."""
    found = [
        f"{_label(base[name])} (needs `{spec}`)"
        for name in sorted(names, key=lambda name: (name not in CORE, name))
        if (spec := _unmet(base[name], new))
    ]
    more = f" and {len(found) - 2} more" if len(found) > 2 else ""
    return f"held there by {' and '.join(found[:2])}{more}" if found else None


def _demand(question: Question, culprits: Sequence[Wish], way: _Way, name: str) -> str | None:
    """Who cannot live with the base's package `name`: empty for a wish for it itself, None for nobody but the base."""
    base, new = question.by_name, way.by_name
    if any(wish.name == name and not _fits(base[name], wish.spec) for wish in culprits):
        return ""
    additions = {other: record for other, record in new.items() if other not in base}
    for chain in _chains([wish.name for wish in culprits], additions):
        last = new[chain[-1]]
        if spec := _unmet(last, base[name]):
            *through, _ = chain
            via = "".join(f"{_label(new[each])} needs " for each in through)
            return f"{via}{_label(last)}{', which' if through else ''} needs `{spec}`, and "
    return None


def _chains(roots: Iterable[str], records: dict[str, RepoDataRecord]) -> Iterable[tuple[str, ...]]:
    """From each root, the shortest way to every package that it needs, the nearest first."""
    waiting: deque[tuple[str, ...]] = deque((root,) for root in roots if root in records)
    seen = {chain[0] for chain in waiting}
    while waiting:
        chain = waiting.popleft()
        yield chain
        for spec in records[chain[-1]].depends:
            needed = spec_name(spec)
            if needed in records and needed not in seen:
                seen.add(needed)
                waiting.append((*chain, needed))


def _let_move(question: Question, way: _Way, moves: frozenset[str], hopeless: Sequence[str]) -> str:
    """Advice to let `moves` move, of which `way` is this platform's part; to take another base where its core would.

    On the platforms `hopeless` no move is enough, and the advice says so.
    """
    base, new = question.by_name, way.by_name
    changes = _some([f"{_label(base[name])} → {_version(new[name], base[name])}" for name in sorted(way.moves)])
    core = sorted(moves & CORE)
    if core or len(moves) > _NAMED:
        main = f", {' and '.join(core)} among them" if core else ""
        return f"build on another base: on this one {_count(len(moves))} would have to move{main} ({changes})"
    options = " ".join(f"--allow-move {name}" for name in sorted(moves))
    but = f"; on {', '.join(hopeless)} nothing that could move would help" if hopeless else ""
    return f"let {' and '.join(sorted(moves))} move, and nothing else of the base: {options} ({changes}){but}"


def _looser(question: Question, culprits: Sequence[Wish], alone: Sequence[Wish]) -> list[str]:
    """Advice to ask for less, no version instead of this one, where that helps; each is enough.

    `alone` are the wishes that fail by themselves: all of them have to ask for less.
    """
    found = []
    for wish in culprits:
        if wish.spec.strip() == wish.name:
            continue
        others = [other.spec for other in question.wishes if other is not wish and other not in alone]
        records = _try(question, [*others, wish.name])
        if records is not None:
            record = next(record for record in records if record.name.normalized == wish.name)
            whose = "the base's own" if wish.name in question.by_name else "which goes with the base"
            found.append(f"ask for plain `{wish.name}`: that gives {_label(record)}, {whose}")
    if len(alone) < 2:
        return found
    return [", and ".join(found)] if len(found) == len(alone) else []


def _fits(record: PackageRecord, spec: str) -> bool:
    parsed = parse_spec(spec)
    return parsed is not None and record.matches(parsed)


def _unmet(record: PackageRecord, other: PackageRecord) -> str | None:
    """The spec by which `record` does not go with `other`: a dependency or a constraint on its name."""
    name = other.name.normalized
    for spec in (*record.depends, *record.constrains):
        if spec_name(spec) == name and not _fits(other, spec):
            return spec
    return None


def _label(record: PackageRecord) -> str:
    return f"{record.name.normalized} {record.version}"


def _version(record: PackageRecord, before: PackageRecord) -> str:
    """The version, with the build where that alone is another."""
    same = str(record.version) == str(before.version)
    return f"{record.version} {record.build}" if same else str(record.version)


def _some(items: Sequence[str]) -> str:
    shown = ", ".join(items[:_NAMED])
    return shown if len(items) <= _NAMED else f"{shown} and {len(items) - _NAMED} more"


def _count(number: int) -> str:
    return "one package" if number == 1 else f"{number} packages"

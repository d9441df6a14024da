"""Solve combinations of torch, torchvision and torchaudio, and apply the rules of `check` to each solution.

This runs in a worker, which may be on another machine: tasks and results are plain values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from packaging.version import Version

from torchlocks.check.lock import check_lock
from torchlocks.check.model import expectation
from torchlocks.core.errors import ChannelUnreachableError, MissingFileError, SolveError, TorchlocksError
from torchlocks.cuda.libraries import FACTS, limits_of, oldest_gpu
from torchlocks.cuda.packages import built_for
from torchlocks.lockfile.formats import PIXI, parse_lock
from torchlocks.lockfile.models import LockedPackage
from torchlocks.lockfile.pixi import write_pixi
from torchlocks.matrix.render import requested
from torchlocks.matrix.target import Target
from torchlocks.solve.repodata import RecordSource
from torchlocks.solve.solver import SolveRequest, generic_virtual_packages, solve
from torchlocks.update.candidates import Choice

REASON_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A combination, its target and its rendered environment file."""

    choice: Choice
    target: Target
    rendered: str


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """Attempts for one Python of a row on a platform. `run` is the same for all tasks of one run.

    In each of `groups`, attempts end at the first that solves. With
    `fewer_architectures`, solutions are accepted whose libraries have no code for GPUs that the row promises.
    """

    run: str
    source: RecordSource
    target: Target
    groups: tuple[tuple[Attempt, ...], ...]
    fewer_architectures: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """A combination that solves: torch's version, the number of packages, and their size in bytes.

    `oldest_gpu` is the oldest compute capability that the libraries support; None without a limit.
    """

    choice: Choice
    version: str
    packages: int
    size: int
    oldest_gpu: str | None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A combination without a valid solution, and the reason. `constraints` are match specs that may allow one."""

    choice: Choice
    reason: str
    constraints: tuple[str, ...] = ()


def search(task: SearchTask) -> list[Found | Failed] | TorchlocksError:
    """Solve the combinations of a task; an error that is not about a combination is returned."""
    results: list[Found | Failed] = []
    source = _opened_once(task.run, task.source)
    try:
        for group in task.groups:
            for attempt in group:
                result = _try(attempt, source, fewer_architectures=task.fewer_architectures)
                results.append(result)
                if isinstance(result, Found):
                    break
    except (ChannelUnreachableError, MissingFileError) as error:
        return error
    return results


def _try(attempt: Attempt, source: RecordSource, *, fewer_architectures: bool) -> Found | Failed:
    target = attempt.target
    request = SolveRequest(
        channels=target.channels,
        platform=target.platform,
        specs=requested(attempt.rendered),
        virtual_packages=generic_virtual_packages(target.virtual_packages),
    )
    try:
        records = solve(request, source)
    except SolveError as error:
        return Failed(choice=attempt.choice, reason=_reason(error))
    pixi = write_pixi({target.platform: records}, target.channels)
    lock = parse_lock(pixi.encode(), Path(PIXI))
    packages = lock.packages[target.platform]
    by_name = {package.name: package for package in packages}
    for name in ("pytorch", *attempt.choice.companions):
        variant = built_for(by_name[name])
        if variant is not None and variant.accelerator != target.accelerator:
            return Failed(choice=attempt.choice, reason=f"the only {name} that solves is {by_name[name].file_name}")
    for finding in check_lock(lock, expectation(target, attempt.rendered)).findings:
        if finding.severity == "error" and not (fewer_architectures and finding.rule == "gpu-libraries"):
            return Failed(
                choice=attempt.choice,
                reason=f"{finding.message} ({finding.rule})"[:REASON_CHARACTERS],
                constraints=_constraints(target, packages) if finding.rule in ("gpu-libraries", "withdrawn") else (),
            )
    return Found(
        choice=attempt.choice,
        version=by_name["pytorch"].version,
        packages=len(packages),
        size=sum(package.size or 0 for package in packages),
        oldest_gpu=oldest_gpu(limits_of(packages)) if target.cuda else None,
    )


def _constraints(target: Target, packages: Sequence[LockedPackage]) -> tuple[str, ...]:
    """Return match specs for library versions that support all GPUs of the row, as far as they are known."""
    names = {package.name for package in packages}
    oldest = min(target.architectures, key=Version, default=None)
    found: dict[str, str] = {}
    for fact in FACTS:
        name = next((each for each in fact.packages if each in names), None)
        if oldest and name and name != "cuda-version" and Version(oldest) < Version(fact.oldest):
            found.setdefault(name, f"{name} <{fact.since}")
    return tuple(found.values())


def _reason(error: SolveError) -> str:
    """Return the beginning of the solver's message on one line, without tree drawing."""
    lines = [line.strip("│├└─ ") for line in (error.details or error.what).splitlines()]
    noise = ("The following packages", "which conflicts with")
    text = "; ".join(line.removesuffix(":") for line in lines if line and not any(each in line for each in noise))
    text = text.replace("cannot be installed because there are no viable options", "cannot be installed")
    return text if len(text) <= REASON_CHARACTERS else text[: REASON_CHARACTERS - 1] + "…"


@lru_cache(maxsize=1)
def _opened_once(run: str, source: RecordSource) -> RecordSource:
    """Return the source of a run with its open files, shared by all tasks of the run in this process."""
    return source

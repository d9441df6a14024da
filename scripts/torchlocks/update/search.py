"""Try combinations of torch, torchvision and torchaudio: solve them, and apply the rules of `check` to the solution.

This runs in a worker, which may be on another machine: values go in and come out.
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
from torchlocks.lockfile.formats import PIXI, parse_lock, write_pixi
from torchlocks.lockfile.models import LockedPackage
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
    """What to try for one Python of a row on a platform. `run` is the same for all tasks of one run.

    Of each group of `groups` the first attempt that solves is taken, and the others are not tried. With
    `fewer_architectures`, solutions are accepted whose libraries have no code for GPUs that the row promises.
    """

    run: str
    source: RecordSource
    target: Target
    groups: tuple[tuple[Attempt, ...], ...]
    fewer_architectures: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """A combination that solves: the version of torch, the packages and the bytes to download.

    `oldest_gpu` is the oldest compute capability that the libraries have code for; None without a limit.
    """

    choice: Choice
    version: str
    packages: int
    size: int
    oldest_gpu: str | None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A combination that was tried in vain, and why. `constraints` are match specs that may help."""

    choice: Choice
    reason: str
    constraints: tuple[str, ...] = ()


def search(task: SearchTask) -> list[Found | Failed] | TorchlocksError:
    """Try the combinations of a task; an error that is not about a combination is returned."""
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
    """Match specs that keep libraries which have code for all GPUs that the row promises, as far as they are known."""
    held = {package.name: package for package in packages}
    oldest = min(target.architectures, key=Version, default=None)
    found: dict[str, str] = {}
    for fact in FACTS:
        name = next((each for each in fact.packages if each in held), None)
        if oldest and name and name != "cuda-version" and Version(oldest) < Version(fact.oldest):
            found.setdefault(name, f"{name} <{fact.since}")
    return tuple(found.values())


def _reason(error: SolveError) -> str:
    """The beginning of the solver's reasons on one line, without the drawing of its tree."""
    lines = [line.strip("│├└─ ") for line in (error.details or error.what).splitlines()]
    noise = ("The following packages", "which conflicts with")
    text = "; ".join(line.removesuffix(":") for line in lines if line and not any(each in line for each in noise))
    text = text.replace("cannot be installed because there are no viable options", "cannot be installed")
    return text if len(text) <= REASON_CHARACTERS else text[: REASON_CHARACTERS - 1] + "…"


@lru_cache(maxsize=1)
def _opened_once(run: str, source: RecordSource) -> RecordSource:
    """The source of a run, with what it has opened, which all tasks of a run in this process share."""
    return source

"""Choose the environment to build or to work in on a machine, by compatibility."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import Version

from torchlocks.core.errors import MissingFileError, NoSuchRowError, UnfitHostError
from torchlocks.core.layout import Layout
from torchlocks.host.compatibility import check_compatibility, needs_of
from torchlocks.host.doctor import (
    Limits,
    best,
    check_environment,
    check_gpu_environments,
    describe,
    limits_of_locks,
    refusal,
)
from torchlocks.host.needs import Compatibility
from torchlocks.host.record import Host
from torchlocks.install.provenance import Provenance, read_provenance
from torchlocks.matrix.cells import environment_name
from torchlocks.matrix.model import Matrix


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An environment's name, and notes for the user."""

    env: str
    notes: tuple[str, ...]


def choose_gpu_environment(
    matrix: Matrix,
    host: Host,
    cuda: str,
    *,
    local: bool = False,
    require_gpu: bool = False,
    python: str | None = None,
    pytorch: str | None = None,
    limits: Limits | None = None,
) -> Choice:
    """Return the CUDA environment to build on `host`, before anything is downloaded.

    `cuda` is a version, or `auto` for the best. `local` selects those of the local channel. A missing GPU is a note
    unless `require_gpu`, since clusters build on login nodes. `python` and `pytorch` select a variant of the row.
    `limits` are those of the locked libraries.
    Raises NoSuchRowError if there is no such environment, UnfitHostError if it cannot run here.
    """
    options = " CHANNEL=local" if local else ""
    named = None if cuda == "auto" else matrix.gpu_environment(cuda, host.platform, local=local)
    results = check_gpu_environments(matrix, host, local=local, limits=limits)
    instead = best(results)
    if require_gpu and (problem := _no_usable_gpu(host)):
        raise UnfitHostError(
            f"REQUIRE_GPU=1, and {problem}.",
            where=describe(host),
            fix="run this where there is a GPU, or leave REQUIRE_GPU out to build for a machine that has one",
        )
    if named is None:
        chosen = _automatic(results, instead, host, options)
        if python is None and pytorch is None:
            return chosen
        named = chosen.env
    if not local:
        named = matrix.variant(named, host.platform, python=python, pytorch=pytorch)
        result = check_environment(matrix, named, host, limits)
    else:
        result = next(each for each in results if each.env == named)
    if error := refusal(result, host, instead, options=options):
        raise error
    return Choice(env=named, notes=_notes(result, host))


def choose_installed(layout: Layout, matrix: Matrix, host: Host) -> Choice:
    """Return the best installed environment that works on `host`: a verified CUDA one if a GPU runs it, else the CPU's.

    Raises MissingFileError if none works, with the command that builds one.
    """
    installed = {
        name: found
        for name in _known(matrix)
        if (found := read_provenance(layout.prefix(name))) is not None and found.platform == host.platform
    }
    working = [
        result for name, found in installed.items() if (result := _working(matrix, name, found, host)) is not None
    ]
    chosen = best(working)
    limits = limits_of_locks(layout.locks, host.platform)
    suggested = best(check_gpu_environments(matrix, host, limits=limits)) if _no_usable_gpu(host) is None else None
    if chosen is None:
        there = f"installed: {', '.join(installed)}" if installed else "nothing is installed"
        raise MissingFileError(
            "No environment is installed that works on this machine and passed its verification.",
            where=f"{layout.envs} ({there}); {describe(host)}",
            fix="make env-cpu" + (f"\nor make env-gpu CUDA={suggested.cuda}" if suggested else ""),
        )
    note = f"ENV=auto is {chosen.env}, on {describe(host)}."
    if chosen.cuda is None and suggested is not None:
        note += f" The GPU is not used; make env-gpu CUDA={suggested.cuda} builds an environment for it."
    return Choice(env=chosen.env, notes=(note,))


def _working(matrix: Matrix, name: str, found: Provenance, host: Host) -> Compatibility | None:
    """Return the compatibility of an installed environment that works here, None if it does not.

    A CPU environment must not have failed its verification; a CUDA environment must have passed it on a GPU.
    """
    local = bool(found.channels_used) and found.channels_used[0].startswith("file:")
    try:
        target = matrix.local_target(name, found.platform) if local else matrix.target(name, found.platform)
    except NoSuchRowError:
        return None  # Its row has left the matrix.
    result = check_compatibility(needs_of(matrix, target), host)
    works = result.state in ("runs", "runs-with-remark")
    return result if works and (found.verified if result.cuda else found.verified is not False) else None


def _automatic(results: tuple[Compatibility, ...], chosen: Compatibility | None, host: Host, options: str) -> Choice:
    if chosen is not None:
        note = f"CUDA=auto is {chosen.cuda}, the best for {describe(host)}."
        return Choice(env=chosen.env, notes=(note, *_notes(chosen, host)))
    versions = sorted((result.cuda for result in results if result.cuda), key=Version)
    if not versions:
        raise NoSuchRowError(f"There is no CUDA environment for {host.platform}.", fix="make env-cpu works everywhere")
    if host.problem is not None:
        raise UnfitHostError(
            "CUDA=auto requires a working NVIDIA driver, and this one does not work.",
            where=host.problem,
            fix=f"name a version, one of {', '.join(versions)} (make env-gpu CUDA=…{options}), or repair the driver",
        )
    if not host.has_driver:
        raise NoSuchRowError(
            "CUDA=auto requires an NVIDIA driver, and this machine has none.",
            fix=f"name a version, one of {', '.join(versions)} (make env-gpu CUDA=…{options}), "
            "or use the CPU environment: make env-cpu",
        )
    unknown = [result for result in results if result.state == "unknown"]
    for result in results if not unknown else ():
        if error := refusal(result, host, None, options=options):
            raise error
    versions = [version for version in versions if version in {result.cuda for result in unknown}] or versions
    raise UnfitHostError(
        "No CUDA environment is known to run on this machine.",
        where=describe(host),
        fix=f"try one of {', '.join(versions)} (make env-gpu CUDA=…{options}) and see whether it is verified"
        "\nor use the CPU environment: make env-cpu",
        details="\n".join(dict.fromkeys(f"  why:   {reason.text}" for result in unknown for reason in result.reasons))
        or None,
    )


def _no_usable_gpu(host: Host) -> str | None:
    if host.problem is not None:
        return f"the GPUs cannot be used: {host.problem}"
    if not host.has_driver:
        return "this machine has no NVIDIA driver"
    return None if host.gpus else "no GPU was found on this machine"


def _notes(result: Compatibility, host: Host) -> tuple[str, ...]:
    """Return notes about an environment that is built here: why no GPU runs it, or remarks for those that do."""
    problem = _no_usable_gpu(host)
    if problem is None:
        return tuple(f"{reason.text}." for reason in result.reasons)
    if host.problem is not None:
        return (f"{problem}. {result.env} is built anyway. REQUIRE_GPU=1 makes this an error.",)
    return (
        f"{problem}, so {result.env} is built for another machine, and nothing is run on a GPU. "
        "REQUIRE_GPU=1 makes this an error.",
    )


def _known(matrix: Matrix) -> list[str]:
    local = [environment_name(cuda) for cuda in matrix.local]
    return list(dict.fromkeys([*matrix.environments, *local]))

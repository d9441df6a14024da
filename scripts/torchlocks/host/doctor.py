"""Which environments run on a machine, why the others do not, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import Version

from torchlocks.core.errors import NoSuchRowError, TorchlocksError, UnfitHostError
from torchlocks.cuda.libraries import Limit, limits_of
from torchlocks.host.compatibility import check_compatibility, needs_of
from torchlocks.host.needs import Compatibility, Reason
from torchlocks.host.record import Host
from torchlocks.matrix.model import Matrix


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The compatibility of every environment, in the order of the matrix, and advice, a sentence each.

    `best` is the environment to use on the machine, None when none runs there. `installed` are the environments that
    are there already, each with its verdict: True, False, or None for not verified. `proven` has a line about the
    evidence on an environment's lock for the platform, for those that have some.
    """

    host: Host
    results: tuple[Compatibility, ...]
    best: str | None
    advice: tuple[str, ...]
    installed: Mapping[str, bool | None] = field(default_factory=dict)
    proven: Mapping[str, str] = field(default_factory=dict)


Limits = Callable[[str], tuple[Limit, ...]]
"""From an environment to what the libraries of its lock have code for."""


def diagnose(
    matrix: Matrix,
    host: Host,
    locked: Collection[str] | None = None,
    *,
    limits: Limits | None = None,
    needed: Collection[str] = (),
    installed: Mapping[str, bool | None] | None = None,
    proven: Mapping[str, str] | None = None,
) -> Diagnosis:
    """Check the default of every row against `host`; only those in `locked`, where that is given.

    `limits` gives what the locked libraries have code for. With `needed` (torchvision, torchaudio), all environments
    that have these packages on the machine's platform are checked instead, variants too. `installed` are environments
    that need not be built, with their verdicts. Raises NoSuchRowError if there are none.
    """
    names = with_packages(matrix, host.platform, needed) if needed else list(matrix.rows)
    results = tuple(check_environment(matrix, name, host, limits) for name in names if locked is None or name in locked)
    chosen = best(results)
    options = ""
    if chosen is not None and chosen.env not in matrix.rows:
        target = matrix.target(chosen.env, host.platform)
        options = f" PY={target.python} TORCH={target.pytorch}"
    there = dict(installed or {})
    advice = tuple(_advice(results, chosen, host, there, options))
    return Diagnosis(
        host=host,
        results=results,
        best=chosen.env if chosen else None,
        advice=advice,
        installed=there,
        proven=proven or {},
    )


def with_packages(matrix: Matrix, platform: str, needed: Collection[str]) -> list[str]:
    """Return the environments that have all of `needed` (torchvision, torchaudio) on a platform, defaults first.

    Raises NoSuchRowError, with the platforms that have them, if there are none.
    """
    having = [target for target in matrix.targets() if set(needed) <= {text.split()[0] for text in target.holds}]
    found = [target.env for target in having if target.platform == platform]
    if not found:
        raise NoSuchRowError(
            f"No environment for {platform} has {' and '.join(sorted(needed))}.",
            fix=f"platforms that have it: {', '.join(sorted({target.platform for target in having})) or '(none)'}",
        )
    return sorted(found, key=lambda name: name not in matrix.rows)


def check_environment(matrix: Matrix, env: str, host: Host, limits: Limits | None = None) -> Compatibility:
    """Return the compatibility of one environment. Raises NoSuchRowError when there is none of that name."""
    row = matrix.environment(env)
    if host.platform in row.platforms:
        # Libraries matter where there are GPUs to compare them with, and reading locks takes longer than all else.
        libraries = limits(env) if limits and row.cuda and host.gpus else ()
        return check_compatibility(needs_of(matrix, matrix.target(env, host.platform), libraries), host)
    text = f"there is none for {host.platform}, only for {', '.join(row.platforms)}"
    reason = Reason(kind="platform", weight="blocks", text=text)
    return Compatibility(env=env, platform=host.platform, cuda=row.cuda, state="does-not-run", reasons=(reason,))


def check_gpu_environments(
    matrix: Matrix, host: Host, *, local: bool = False, limits: Limits | None = None
) -> tuple[Compatibility, ...]:
    """Check the default of every CUDA row of the machine's platform, or the CUDA rows of the `local` channel."""
    targets = matrix.local_targets(host.platform) if local else matrix.defaults()
    return tuple(
        check_compatibility(needs_of(matrix, target, limits(target.env) if limits and not local else ()), host)
        for target in targets
        if target.cuda and target.platform == host.platform
    )


def limits_of_locks(locks: Path, platform: str) -> Limits:
    """Return a function that reads what the libraries of an environment's lock in `locks` have code for.

    Names and versions are all that is needed, so the short explicit file is read. Without a lock there are no limits.
    """

    def limits(env: str) -> tuple[Limit, ...]:
        from torchlocks.lockfile.formats import explicit_name, read_lock

        path = locks / env / explicit_name(platform)
        if not path.is_file():
            return ()
        try:
            lock = read_lock(path)
        except TorchlocksError:
            # `check` is what reports a lock that cannot be read.
            return ()
        return limits_of(lock.packages.get(platform, ()))

    return limits


def best(results: Iterable[Compatibility]) -> Compatibility | None:
    """Return the environment to use: most GPUs, machine code rather than PTX, newest CUDA; else the CPU's.

    One whose driver is right, while the GPUs are not here or not known, is taken where none is known to run.
    """

    def rank(result: Compatibility) -> tuple[bool, int, bool, Version]:
        kinds = {reason.kind for reason in result.reasons}
        return result.state != "unknown", len(result.gpus), "ptx" not in kinds, Version(result.cuda or "0")

    possible = [
        result
        for result in results
        if result.state != "does-not-run"
        and not any(reason.weight == "open" and reason.kind not in ("no-gpu", "not-known") for reason in result.reasons)
    ]
    with_cuda = [result for result in possible if result.cuda is not None]
    return max(with_cuda, key=rank) if with_cuda else next(iter(possible), None)


def refusal(
    result: Compatibility, host: Host, instead: Compatibility | None, *, options: str = ""
) -> TorchlocksError | None:
    """Return the error for a CUDA environment that cannot run on this machine; None when it may.

    `instead` is one that does, and `options` is what follows `make env-gpu CUDA=…`. What lies in the machine's present
    state alone (a driver that waits for a restart) is no reason to refuse.
    """
    blocking = [reason for reason in result.blocking if reason.kind != "driver-problem"]
    if result.state != "does-not-run" or not blocking:
        return None
    # A new driver does not help where the GPUs themselves are the obstacle.
    fixable = blocking if not any(reason.kind == "architecture" for reason in blocking) else []
    choices = [reason.fix for reason in fixable if reason.fix]
    if instead is not None and instead.cuda is not None:
        choices.append(f"use what runs here: make env-gpu CUDA={instead.cuda}{options}")
    else:
        choices.append("use the CPU environment: make env-cpu")
    if any(reason.kind != "glibc" for reason in blocking):
        command = f"CONDA_OVERRIDE_CUDA= make env-gpu CUDA={result.cuda}{options}"
        choices.append(f"build it all the same, for another machine: {command}")
    return UnfitHostError(
        f"{result.env} does not run on this machine: {blocking[0].text}.",
        where=describe(host),
        fix="\nor ".join(choices),
        details="\n".join(f"  also:  {reason.text}" for reason in blocking[1:]) or None,
    )


def describe(host: Host) -> str:
    """Return the machine in one line: platform, driver and GPUs."""
    return ", ".join((host.platform, describe_driver(host), *describe_gpus(host)))


def describe_driver(host: Host) -> str:
    """Return the driver as text, as far as it is known: `NVIDIA driver 535.104.05 (CUDA 12.2)`."""
    where = " of Windows" if host.kind == "wsl" else ""
    if host.driver is None:
        return f"a driver for CUDA {host.cuda}" if host.cuda else "no NVIDIA driver"
    return f"NVIDIA driver {host.driver}{where}" + (f" (CUDA {host.cuda})" if host.cuda else "")


def describe_gpus(host: Host) -> list[str]:
    """Return the kinds of GPU with their numbers: `2 x NVIDIA H100 (sm_90, 80 GiB)`."""
    counted: dict[str, int] = {}
    for gpu in host.gpus:
        sm = f"sm_{gpu.compute_capability.replace('.', '')}" if gpu.compute_capability else None
        memory = f"{gpu.memory_bytes / 2**30:.0f} GiB" if gpu.memory_bytes else None
        facts = ", ".join(fact for fact in (sm, memory, "MIG" if gpu.mig else None) if fact)
        name = f"{gpu.name} ({facts})" if facts else gpu.name
        counted[name] = counted.get(name, 0) + 1
    return [f"{count} x {name}" if count > 1 else name for name, count in counted.items()]


def _advice(
    results: tuple[Compatibility, ...],
    chosen: Compatibility | None,
    host: Host,
    installed: Mapping[str, bool | None],
    options: str = "",
) -> list[str]:
    advice = []
    if host.problem is not None:
        advice.append(f"The GPUs cannot be used now: {host.problem}.")
    if chosen is None:
        advice.append("No environment of this repository runs on this machine.")
    elif chosen.env in installed:
        advice.append(_use(chosen.env, installed[chosen.env]))
    elif chosen.cuda is not None:
        advice.append(f"Build {chosen.env}, the best for this machine: make env-gpu CUDA={chosen.cuda}{options}")
    else:
        advice.append(f"Build the CPU environment: make env-cpu{options}")
    if any(reason.kind == "no-driver" for result in results for reason in result.reasons):
        advice.append("Build a CUDA environment here for a machine that has a GPU: make env-gpu CUDA=…")
        advice.append(
            "Ask what runs there: torchlocks doctor --json > host.json there, torchlocks doctor --host host.json here"
        )
    system = (
        reason.fix for result in results for reason in result.reasons if reason.kind in ("glibc", "osx") and reason.fix
    )
    advice += [f"For the others, {fix}." for fix in dict.fromkeys(system)]
    return advice + newer_driver(results, chosen, host)


def _use(env: str, verified: bool | None) -> str:
    """Return what to do with the best environment where it is installed."""
    if verified:
        return f"Use {env}, which is installed and verified: make shell ENV={env}"
    if verified is None:
        return f"{env} is installed and not verified: make verify ENV={env}"
    return f"{env} is installed and failed its verification: see reports/{env}.html, then make verify ENV={env}"


def newer_driver(results: tuple[Compatibility, ...], chosen: Compatibility | None, host: Host) -> list[str]:
    """Return a sentence for each driver with which newer environments would run."""
    newest = Version(chosen.cuda) if chosen is not None and chosen.cuda is not None else Version("0")
    held_back: dict[str, list[str]] = {}
    for result in results:
        drivers = [reason.driver for reason in result.blocking]
        if result.state == "does-not-run" and drivers and Version(result.cuda or "0") > newest and None not in drivers:
            needed = max((driver for driver in drivers if driver), key=Version)
            held_back.setdefault(needed, []).append(result.env)
    where = " on Windows" if host.kind == "wsl" else ""
    return [
        f"With driver {needed} or newer{where}, {_and(names)} would run, too." for needed, names in held_back.items()
    ]


def _and(names: list[str], most: int = 12) -> str:
    """Return the names as text; only the number of those beyond `most`."""
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))

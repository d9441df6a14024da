"""Build a verified environment from a row of the matrix: select lock and channel, install, verify.

`make env-cpu` and `make env-gpu` run this. Unchanged inputs (compared by content) are detected before any expensive
import; an environment of the same lock is verified again, but not installed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torchlocks.core.errors import ChannelUnreachableError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.install.installed import installed_lock
from torchlocks.install.provenance import Origin
from torchlocks.install.up_to_date import has_leftovers, inputs_of, nothing_to_do, read_record, reason_to_work

if TYPE_CHECKING:
    from torchlocks.install.fetch_options import FetchOptions
    from torchlocks.local_channel.wheel_sizes import RowSize
    from torchlocks.lockfile.models import Lock
    from torchlocks.matrix.target import Target
    from torchlocks.verify.verdict import Verdict

ChannelChoice = Literal["auto", "conda-forge", "local"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of the command. `offline` uses the package cache only; `force` repeats every step.

    `quick` runs the suite's short set of checks, which leaves the environment without a full verification.
    """

    env: str
    platform: str
    channel: ChannelChoice = "auto"
    offline: bool = False
    force: bool = False
    quick: bool = False
    mirror: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result. `verdict` is None if there was nothing to do; `notes` are messages for the user."""

    prefix: Path
    verdict: Verdict | None
    notes: tuple[str, ...]


def make_environment(layout: Layout, request: Request, progress: Progress) -> Outcome:
    """Install the environment `request.env` into its prefix and run the torch suite in it.

    Raises NoSuchRowError for an environment or platform that does not exist, ChannelUnreachableError when
    its packages cannot be downloaded, and what locking, building, installing and verifying raise. An existing
    environment is unchanged until the new one is complete.
    """
    prefix = layout.prefix(request.env)
    root = str(layout.root)
    if has_leftovers(str(prefix)):
        from torchlocks.install.installer import clean_leftovers

        clean_leftovers(prefix, progress)
    if not request.force and (note := nothing_to_do(root, str(prefix), request.env, request.channel, request.platform)):
        return Outcome(prefix=prefix, verdict=None, notes=(note,))
    inputs = inputs_of(root, request.env, request.platform, request.channel)
    if not request.force and (record := read_record(str(prefix))) is not None:
        progress.say(f"{request.env} is installed, but {reason_to_work(record, str(prefix), inputs)}.")

    from torchlocks.install.fetch_options import FetchOptions
    from torchlocks.install.installer import InstallOptions, install_environment, warn_of_space
    from torchlocks.matrix.load import load_matrix
    from torchlocks.solve.repodata import mirrors

    warn_of_space(prefix, progress)
    matrix = load_matrix(layout.matrix)
    find = matrix.local_target if request.channel == "local" else matrix.target
    target = find(request.env, request.platform)
    fetch = FetchOptions(offline=request.offline, mirrors=mirrors(request.mirror))
    lock = _choose(layout, target, request, fetch, progress)
    progress.say(f"Installing {request.env} into {_short(layout, prefix)}")
    result = install_environment(
        lock,
        request.platform,
        prefix,
        provenance=Origin(name=request.env, channel=request.channel, inputs=inputs),
        options=InstallOptions(fetch=fetch, force=request.force),
        progress=progress,
    )
    verdict = _verify(layout, target, lock, progress, quick=request.quick)
    return Outcome(prefix=result.prefix, verdict=verdict, notes=())


def verify_installed(
    layout: Layout, env: str, progress: Progress, *, select: str | None = None, quick: bool = False
) -> Verdict:
    """Run the suite again in an installed environment, with the lock that it was installed from.

    A run of all checks marks the environment as verified or not; a selection (`select`, as for pytest -k) and the
    short set (`quick`) do not. Raises MissingFileError if the environment's lock no longer exists.
    """
    lock, target = installed_lock(layout, env)
    return _verify(layout, target, lock, progress, select, quick)


def _verify(
    layout: Layout,
    target: Target,
    lock: Lock,
    progress: Progress,
    select: str | None = None,
    quick: bool = False,
) -> Verdict:
    from torchlocks.install.provenance import mark_verified
    from torchlocks.verify.suite import Required, SuiteOptions, verify_environment
    from torchlocks.workflow.committed import differs_from_committed

    prefix = layout.prefix(target.env)
    packages = lock.packages.get(target.platform, ())
    local = bool(packages) and packages[0].channel.startswith("file:")
    options = SuiteOptions(
        suite=layout.suite,
        # A selection does not replace the report of a complete run.
        reports=layout.reports if select is None and not quick else layout.reports / "selections",
        select=select,
        quick=quick,
        differs=differs_from_committed(layout, target.env, target.platform, packages) if local else None,
    )
    verdict = verify_environment(prefix, lock, target.platform, Required.of(target), options, progress)
    if verdict.complete:
        mark_verified(prefix, verdict.ok, _short(layout, layout.reports / f"{target.env}.json"))
    return verdict


def _choose(layout: Layout, target: Target, request: Request, fetch: FetchOptions, progress: Progress) -> Lock:
    """Return the committed lock if its packages are available, else (`auto`, CPU) a lock of the local channel."""
    if request.channel == "local":
        return _local_lock(layout, target, fetch, progress)
    from torchlocks.install.availability import packages_available
    from torchlocks.workflow.unreachable import packages_unavailable

    channels = " and ".join(target.channels)
    progress.say(f"Looking for the packages of {target.env} on {channels}")
    lock = _committed_lock(layout, target, request, progress)
    missing: tuple[str, ...] = ()
    if isinstance(lock, str):
        reason = lock
    else:
        available = packages_available(lock, target.platform, fetch)
        if available.ok:
            return lock
        reason, missing = available.reason, available.missing if request.offline else ()
    # The local channel has one Python and one PyTorch, so it cannot replace a variant.
    if request.channel == "conda-forge" or target.env != "cpu":
        raise packages_unavailable(
            target,
            None if isinstance(lock, str) else lock,
            channels=channels,
            reason=reason,
            missing=missing,
            local=_local_rows(layout, request.platform),
            offline=request.offline,
        )
    progress.warn(
        f"{channels} could not be used ({reason}), so {target.env} is built from the local channel instead, out of "
        "PyPI wheels and this machine's Python. CHANNEL=conda-forge requires the committed lock, CHANNEL=local "
        "requests this."
    )
    return _local_lock(layout, target, fetch, progress)


def _local_rows(layout: Layout, platform: str) -> list[RowSize]:
    """Return the CUDA versions that the local channel has on `platform`, with their sizes."""
    from torchlocks.local_channel.wheel_sizes import row_size
    from torchlocks.matrix.load import load_matrix

    targets = load_matrix(layout.matrix).local_targets(platform)
    return [row_size(layout.recipes / "local", target.cuda) for target in targets if target.cuda]


def _committed_lock(layout: Layout, target: Target, request: Request, progress: Progress) -> Lock | str:
    """Return the committed lock of the target, or a new one if that is outdated, or the reason why there is none.

    The committed file is not changed; `make lock` does that.
    """
    from torchlocks.lockfile.formats import CONDA_LOCK
    from torchlocks.locking.environments import expected_content_hash, lock_environments
    from torchlocks.locking.options import LockOptions, find_solver
    from torchlocks.matrix.render import render
    from torchlocks.solve.repodata import RecordSource

    committed = layout.locks / target.env / CONDA_LOCK
    rendered = render(layout.root / target.template, target)
    if not committed.is_file():
        progress.say(f"{_short(layout, committed)} does not exist; locking {target.env}")
    else:
        lock = _read(committed)
        if lock.content_hash.get(target.platform) == expected_content_hash(target, rendered):
            return lock
        progress.warn(
            f"{_short(layout, committed)} is older than {target.template} or matrix.yml; locking {target.env} again. "
            "`make lock` updates the committed lock."
        )
    if request.offline:
        return f"offline, and {_short(layout, committed)} does not exist or is older than its inputs"
    options = LockOptions(source=RecordSource(mirror=request.mirror), solver=find_solver())
    folder = layout.build / "relocked"
    results, failures = lock_environments(layout, [target], folder, options, progress)
    if failures:
        if isinstance(failures[0].error, ChannelUnreachableError):
            return failures[0].error.what
        raise failures[0].error
    return _read(results[0].folder / CONDA_LOCK)


def _local_lock(layout: Layout, target: Target, fetch: FetchOptions, progress: Progress) -> Lock:
    """Build the local channel, and return a lock of the target from it.

    Offline, an existing lock whose packages are all in the package cache is returned, such as that of an unpacked
    bundle. Raises FetchError, offline, for missing wheels.
    """
    from torchlocks.lockfile.formats import CONDA_LOCK

    existing = layout.local_locks / target.env / CONDA_LOCK
    if fetch.offline and existing.is_file():
        from torchlocks.install.availability import packages_available

        lock = _read(existing)
        if target.platform in lock.packages and packages_available(lock, target.platform, fetch).ok:
            progress.say(f"Offline: using {_short(layout, existing)}, whose packages are all in the package cache")
            return lock
    from torchlocks.local_channel.build import build_local_channel
    from torchlocks.locking.environments import lock_environments
    from torchlocks.locking.options import LockOptions, find_solver
    from torchlocks.solve.repodata import RecordSource

    channel = build_local_channel(
        layout,
        accelerator=target.cuda or "cpu",
        installs_into=layout.envs,
        offline=fetch.offline,
        progress=progress,
    )
    local_target = target.on_channel(channel.url, python=channel.python, pytorch=channel.versions["pytorch"])
    options = LockOptions(source=RecordSource(), solver=find_solver())
    results, failures = lock_environments(layout, [local_target], layout.local_locks, options, progress)
    if failures:
        raise failures[0].error
    return _read(results[0].folder / CONDA_LOCK)


def _read(conda_lock: Path) -> Lock:
    from torchlocks.lockfile.open import open_lock

    return open_lock(str(conda_lock))


def _short(layout: Layout, path: Path) -> str:
    try:
        return str(path.relative_to(layout.root))
    except ValueError:
        return str(path)

"""The error for an environment whose packages cannot be downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from packaging.version import Version

from torchlocks.core.errors import ChannelUnreachableError
from torchlocks.cuda.packages import torch_package
from torchlocks.lockfile.models import Lock
from torchlocks.matrix.target import Target

if TYPE_CHECKING:
    from torchlocks.local_channel.wheel_sizes import RowSize


def packages_unavailable(
    target: Target,
    lock: Lock | None,
    *,
    channels: str,
    reason: str,
    missing: Sequence[str] = (),
    local: Sequence[RowSize] = (),
    offline: bool = False,
) -> ChannelUnreachableError:
    """Return the error for an environment whose packages cannot be downloaded because of `reason`.

    `lock` is the committed lock, None if it no longer agrees with the template or the matrix. `missing` are package
    files to list. `local` are the CUDA versions that the local channel has on this platform. `offline`: network access
    was disabled.
    """
    if lock is not None:
        what = f"The lock of {target.env} is valid, but its packages cannot be downloaded from {channels}."
        facts = lock_summary(lock, target)
    else:
        what = f"{target.env} must be locked again, and {channels} cannot be used for that."
        facts = f"{target.template} or matrix.yml is newer than the committed lock"
    choices = [
        *(["leave OFFLINE=1 out, so that the packages are downloaded"] if offline else []),
        *([] if offline else ["reach the channel (network, proxy) and run this again"]),
        *([] if offline else ["name a mirror of it: MIRROR=URL"]),
        f"install locks/{target.env}/conda-{target.platform}.lock on a machine that reaches it",
        f"bring a bundle from such a machine: make bundle ENV={target.env} there, make bundle FILE=… here",
        *(_from_wheels(target, local) if target.platform.startswith("linux") and not offline else []),
    ]
    return ChannelUnreachableError(
        what,
        where=reason,
        fix="\nor ".join(choices),
        details="\n".join([f"  lock:  {facts}", *(f"  missing: {name}" for name in missing)]),
    )


def lock_summary(lock: Lock, target: Target) -> str:
    """Return one line about the lock's content for the target's platform."""
    packages = lock.packages.get(target.platform, ())
    by_name = {package.name: package.version for package in packages}
    torch = torch_package(packages)
    sizes = [package.size for package in packages]
    parts = [f"committed in locks/{target.env}: {len(packages)} packages"]
    if sizes and None not in sizes:
        parts.append(f"{sum(size for size in sizes if size) / 1e9:.1f} GB to download")
    if torch is not None:
        parts.append(f"PyTorch {torch.version} for {f'CUDA {target.cuda}' if target.cuda else 'the CPU'}")
    if "python" in by_name:
        parts.append(f"Python {by_name['python']}")
    hashed = "every package with its sha256, and " if all(package.sha256 for package in packages) else ""
    return f"{', '.join(parts)}; {hashed}up to date with {target.template} and matrix.yml"


def _from_wheels(target: Target, local: Sequence[RowSize]) -> list[str]:
    """Return what can be built from PyPI wheels instead: the same CUDA, else the nearest, and the CPU environment."""
    if target.env == "cpu":
        return ["build it from PyPI wheels instead: CHANNEL=local (or auto)"]
    if target.accelerator == "cpu":
        return ["use the default CPU environment, which can be built from PyPI wheels: make env-cpu"]
    choices = []
    rows = sorted((row for row in local if row.torch is not None), key=lambda row: _distance(row.cuda, target.cuda))
    if rows and rows[0].cuda == target.cuda:
        choices.append(f"build it from PyPI wheels: CHANNEL=local ({_wheels(rows[0])})")
    elif rows:
        choices.append(
            f"build CUDA {rows[0].cuda} from PyPI wheels: make env-gpu CUDA={rows[0].cuda} CHANNEL=local "
            f"({_wheels(rows[0])})"
        )
    return [*choices, "use the CPU environment, which can be built from PyPI wheels: make env-cpu"]


def _wheels(row: RowSize) -> str:
    return f"PyTorch {row.torch}, {row.download / 1e9:.1f} GB to download"


def _distance(cuda: str, wanted: str | None) -> tuple[int, int]:
    one, other = Version(wanted or "0"), Version(cuda)
    return abs(one.major - other.major), abs(one.minor - other.minor)

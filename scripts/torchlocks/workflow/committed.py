"""Describe how the lock of the local channel differs from the committed one."""

from __future__ import annotations

from torchlocks.core.errors import TorchlocksError
from torchlocks.core.layout import Layout
from torchlocks.cuda.packages import torch_package
from torchlocks.lockfile.formats import CONDA_LOCK
from torchlocks.lockfile.models import LockedPackage
from torchlocks.lockfile.open import open_lock

_COMPARED = ("torchvision", "torchaudio", "python", "numpy")


def differs_from_committed(layout: Layout, env: str, platform: str, lock_packages: tuple[LockedPackage, ...]) -> str:
    """Return the differences of a lock from the committed lock of `env`: torch, Python, the number of packages.

    If the committed lock is missing or invalid, the text reports that.
    """
    path = layout.locks / env / CONDA_LOCK
    try:
        committed = open_lock(str(path)).packages.get(platform, ())
    except TorchlocksError:
        committed = ()
    if not committed:
        return f"not the committed lock: there is none of {env} for {platform}"
    local, expected = _versions(lock_packages), _versions(committed)
    parts = []
    for name in ("torch", *_COMPARED):
        here, there = local.get(name), expected.get(name)
        if here != there:
            label = "Python" if name == "python" else name
            parts.append(f"{label} {here} instead of {there}" if here and there else f"{'no ' if there else ''}{label}")
    parts.append(f"{len(lock_packages)} packages instead of {len(committed)}")
    return f"not the committed lock: {', '.join(parts)}"


def _versions(packages: tuple[LockedPackage, ...]) -> dict[str, str]:
    found = {package.name: package.version for package in packages if package.name in _COMPARED}
    torch = torch_package(packages)
    return found | ({"torch": torch.version} if torch else {})

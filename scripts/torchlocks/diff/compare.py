"""Compare two locks: packages, and what the changes mean for torch and the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torchlocks.core.errors import LockfileError
from torchlocks.cuda.drivers import driver_floor
from torchlocks.cuda.packages import cuda_version, floor_of, torch_package, variant_of
from torchlocks.cuda.python_packages import is_pip
from torchlocks.diff.read import Row, Side
from torchlocks.lockfile.models import LockedPackage

Move = Literal["added", "removed", "upgraded", "downgraded", "rebuilt", "replaced"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One changed package.

    `rebuilt` is another build of the same version; `replaced` the same name, version and build with
    other bytes or from another channel, or the same version by pip instead of conda.
    """

    move: Move
    name: str
    before: LockedPackage | None
    after: LockedPackage | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a lock for one platform requires of a machine and contains. None: not known, or not required.

    `cuda_floor` and `glibc_floor` are the lowest `__cuda` and `__glibc` that its packages accept; sizes are
    in bytes; `driver` and `architectures` are those of its row in matrix.yml. Without a row, `driver` is what the CUDA
    major of torch's build needs.
    """

    torch: str | None
    python: str | None
    cuda: str | None
    cuda_floor: str | None
    driver: str | None
    glibc_floor: str | None
    architectures: tuple[str, ...]
    packages: int
    download: int | None
    installed: int | None


@dataclass(frozen=True, kw_only=True)
class PlatformDiff:
    """The differences on one platform."""

    platform: str
    changes: tuple[Change, ...]
    before: Facts
    after: Facts


@dataclass(frozen=True, kw_only=True)
class Diff:
    """The differences between two locks."""

    before: str
    after: str
    platforms: tuple[PlatformDiff, ...]
    platforms_added: tuple[str, ...]
    platforms_removed: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both have the same packages for the same platforms."""
        return not (
            self.platforms_added or self.platforms_removed or any(platform.changes for platform in self.platforms)
        )


def diff(before: Side, after: Side) -> Diff:
    """Compare two locks on their common platforms. Raises LockfileError if there is none."""
    common = [platform for platform in before.packages if platform in after.packages]
    if not common:
        raise LockfileError(
            "The two have no platform in common.",
            where=f"{before.name}: {', '.join(before.packages) or 'none'}; "
            f"{after.name}: {', '.join(after.packages) or 'none'}",
            fix="compare locks of the same platform.",
        )
    both_whole = before.whole and after.whole
    return Diff(
        before=before.name,
        after=after.name,
        platforms=tuple(
            PlatformDiff(
                platform=platform,
                changes=changes(before.packages[platform], after.packages[platform]),
                before=facts(before, platform),
                after=facts(after, platform),
            )
            for platform in common
        ),
        platforms_added=tuple(p for p in after.packages if p not in before.packages) if both_whole else (),
        platforms_removed=tuple(p for p in before.packages if p not in after.packages) if both_whole else (),
    )


def changes(before: tuple[LockedPackage, ...], after: tuple[LockedPackage, ...]) -> tuple[Change, ...]:
    """Return the changed packages, sorted by name.

    A project under two spellings (`typing-extensions`, `typing_extensions`) is one, where each side has one of them.
    """
    from packaging.utils import canonicalize_name

    old = {package.name: package for package in before}
    new: Mapping[str, LockedPackage] = {package.name: package for package in after}
    gone = {canonicalize_name(name): name for name in old if name not in new}
    for name in new:
        if name not in old and (spelled := gone.pop(canonicalize_name(name), None)) is not None:
            old[name] = old.pop(spelled)
    found = []
    for name in sorted(old.keys() | new.keys()):
        move = _move(old.get(name), new.get(name))
        if move is not None:
            found.append(Change(move=move, name=name, before=old.get(name), after=new.get(name)))
    return tuple(found)


def _move(before: LockedPackage | None, after: LockedPackage | None) -> Move | None:
    if before is None:
        return "added"
    if after is None:
        return "removed"
    if before.version != after.version:
        return "upgraded" if is_newer(before.version, after.version) else "downgraded"
    if is_pip(before) != is_pip(after):
        return "replaced"
    if before.build != after.build:
        return "rebuilt"
    if before.subdir != after.subdir and "noarch" not in (before.subdir, after.subdir):
        return None  # The same build, for another platform.
    same_bytes = all(
        ours is None or theirs is None or ours == theirs
        for ours, theirs in ((before.sha256, after.sha256), (before.md5, after.md5))
    )
    # The URL of a wheel contains a hash, so only conda packages are compared by channel.
    same_source = before.channel == after.channel or (is_pip(before) and is_pip(after))
    return None if same_bytes and same_source else "replaced"


def is_newer(before: str, after: str) -> bool:
    """Return whether `after` is the newer version, in conda's order."""
    from rattler import Version
    from rattler.exceptions import InvalidVersionError

    try:
        return Version(before) < Version(after)
    except InvalidVersionError:
        return before < after


def facts(side: Side, platform: str) -> Facts:
    """Return the facts of a side on one platform."""
    packages = side.packages[platform]
    row = side.rows.get(platform, Row())
    torch = torch_package(packages)
    variant = variant_of(torch.build) if torch else None
    sizes = [package.size for package in packages if not is_pip(package)]
    python = next((package.version for package in packages if package.name == "python"), None)
    return Facts(
        torch=(f"{torch.version} {variant}" if variant else torch.version) if torch else None,
        python=python,
        cuda=cuda_version(packages),
        cuda_floor=floor_of(packages, "__cuda"),
        driver=row.driver or driver_floor(variant.major if variant else None, platform),
        glibc_floor=floor_of(packages, "__glibc"),
        architectures=row.architectures,
        packages=len(packages),
        download=sum(size for size in sizes if size is not None) if None not in sizes else None,
        installed=side.installed.get(platform),
    )

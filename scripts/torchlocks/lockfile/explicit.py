"""Explicit files: `@EXPLICIT`, then one URL a line, with a hash after `#` (CEP 23).

Clients differ in which hashes they accept. All versions of conda and mamba accept `#<md5>`. A bare `#<sha256>` (64
digits) is accepted by conda >= 24.9 (conda pull request 14048), mamba and micromamba >= 2.1 (mamba pull request 3866),
pixi and rattler; an older conda refuses the line and never skips the check. The prefixed form `#sha256:<sha256>` is
read by the same versions, but CEP 23 makes it optional. So a bare SHA-256 is written, as `conda list --explicit
--sha256` does, and MD5 only for a package without a SHA-256.
"""

from __future__ import annotations

import re
from pathlib import Path

from torchlocks.core.errors import LockfileError
from torchlocks.core.urls import credential_variables, mask_malformed
from torchlocks.lockfile.fields import parse_hash, parse_package_url
from torchlocks.lockfile.models import Lock, LockedPackage, PipPackage, pip_package

_COMMENT = re.compile(r"#\s*(platform|input_hash|env_hash|created-by)\s*:\s*(\S.*?)\s*$")
_PIP_COMMENT = re.compile(r"#\s*pip\s+(\S+)(?:\s*@\s*(\S+))?")


def parse_explicit(text: str, path: Path, sha256: str) -> Lock:
    """Parse an explicit file: one platform, no dependencies. Raises LockfileError with the line.

    The platform is that of the comment `# platform: …`, else the one subdir beside noarch.
    """
    packages: list[LockedPackage] = []
    comments: dict[str, str] = {}
    pip: list[PipPackage] = []
    marked = False
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        where = f"{path}, line {number}"
        if line.startswith("#"):
            if comment := _COMMENT.match(line):
                comments.setdefault(comment[1], comment[2])
            elif requirement := _PIP_COMMENT.match(line):
                pip.append(_pip(requirement[1], requirement[2]))
        elif line == "@EXPLICIT":
            marked = True
        elif line and not marked:
            raise LockfileError(
                f"{mask_malformed(line)!r} is before the line @EXPLICIT.",
                where=where,
                fix="put @EXPLICIT above the first package.",
            )
        elif line:
            packages.append(_parse_line(line, where))
    if not marked:
        raise LockfileError("The line @EXPLICIT is missing.", where=str(path))
    platform = comments.get("platform") or _only_platform(packages, path)
    input_hash = comments.get("input_hash") or comments.get("env_hash")
    return Lock(
        path=path,
        kind="explicit",
        sha256=sha256,
        channels=tuple(dict.fromkeys(package.channel for package in packages)),
        packages={platform: tuple(packages)},
        content_hash={platform: input_hash} if input_hash else {},
        virtual_packages={},
        metadata={"created-by": comments["created-by"]} if "created-by" in comments else {},
        pip={platform: tuple(pip)} if pip else {},
        variables=tuple(dict.fromkeys(name for package in packages for name in credential_variables(package.url))),
    )


def _pip(requirement: str, location: str | None) -> PipPackage:
    """Parse a line `# pip NAME==VERSION @ URL#sha256=…`, which conda-lock writes for its own installer."""
    name, _, version = requirement.partition("==")
    url, _, fragment = (location or "").partition("#")
    sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
    return pip_package(name, version or None, url or None, sha256)


def _parse_line(line: str, where: str) -> LockedPackage:
    address, _, fragment = line.partition("#")
    url = parse_package_url(address, where)
    md5 = sha256 = None
    if fragment.startswith("sha256:") or len(fragment) == 64:
        sha256 = parse_hash("sha256", fragment.removeprefix("sha256:"), where)
    elif fragment:
        md5 = parse_hash("md5", fragment.removeprefix("md5:"), where)
    return LockedPackage(
        name=url.name, version=url.version, build=url.build, subdir=url.subdir, url=url.url, sha256=sha256, md5=md5
    )


def _only_platform(packages: list[LockedPackage], path: Path) -> str:
    subdirs = sorted({package.subdir for package in packages} - {"noarch"})
    if len(subdirs) > 1:
        raise LockfileError(
            f"The file contains packages of several platforms ({', '.join(subdirs)}) and does not name its own.",
            where=str(path),
            fix="add a line such as `# platform: linux-64` at the top.",
        )
    return subdirs[0] if subdirs else "noarch"


def write_explicit(lock: Lock, platform: str) -> str:
    """Format one platform of `lock` as an explicit file, with packages after their dependencies.

    Raises LockfileError if the lock does not have the platform, or a package has no hash.
    """
    if platform not in lock.packages:
        raise LockfileError(
            f"The lock has no platform {platform}.",
            where=str(lock.path),
            fix=f"it has: {', '.join(lock.platforms) or 'none'}.",
        )
    lines = [
        "# An explicit list of packages: conda create --name NAME --file THIS_FILE",
        "# Needs conda 24.9, mamba or micromamba 2.1, pixi or rattler, or newer: hashes are SHA-256.",
        f"# platform: {platform}",
    ]
    if platform in lock.content_hash:
        lines.append(f"# input_hash: {lock.content_hash[platform]}")
    lines.append("@EXPLICIT")
    for package in link_order(lock.packages[platform]):
        digest = package.sha256 or package.md5
        if digest is None:
            raise LockfileError(
                f"{package.file_name} has no hash.", where=str(lock.path), fix="make the lock again with `make lock`."
            )
        lines.append(f"{package.url}#{digest}")
    return "\n".join(lines) + "\n"


def link_order(packages: tuple[LockedPackage, ...]) -> list[LockedPackage]:
    """Return the packages with each after its dependencies; the result does not depend on the input's order.

    Explicit installs link in the order of the file, and some clients run post-link scripts as they go. Packages of a
    dependency cycle are ordered by name. Packages without known dependencies (explicit files) keep their order, which
    is the link order already.
    """
    if any(package.depends is None for package in packages):
        return list(packages)
    by_name = {package.name: package for package in sorted(packages, key=lambda package: package.url)}
    done: dict[str, None] = {}

    # A stack instead of recursion: chains of dependencies may be longer than Python's.
    entered: set[str] = set()
    for root in sorted(by_name):
        stack = [(root, False)]
        while stack:
            name, leaving = stack.pop()
            if leaving:
                done.setdefault(name)
            elif name not in entered:
                entered.add(name)
                stack.append((name, True))
                stack.extend(
                    (each, False) for each in sorted(by_name[name].dependency_names & by_name.keys(), reverse=True)
                )
    ordered = [by_name[name] for name in done]
    return ordered + [package for package in packages if package is not by_name[package.name]]

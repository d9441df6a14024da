"""Rules on a lock that was built on a base: the base is in it unchanged, and it is current.

The base is read from where the lock records it. One on another machine is fetched only with `fetch_base`: a lock of
somebody else must not decide which servers are contacted. Rules that require a base that was not read are reported as
skipped, and the base as not checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torchlocks.check.model import Expectation, Finding, Report, Skipped
from torchlocks.check.rules import files as check_files
from torchlocks.check.rules.graph import reachable
from torchlocks.check.rules.packages import RELOCK
from torchlocks.core.errors import TorchlocksError
from torchlocks.core.urls import mask
from torchlocks.extend.base import Base, open_base, virtual_packages
from torchlocks.extend.base_name import needs_network
from torchlocks.extend.built import Built, read_built
from torchlocks.extend.environment_file import EnvironmentFile, read_environment_file
from torchlocks.extend.files import input_hash
from torchlocks.extend.lock import all_channels
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, explicit_name
from torchlocks.lockfile.models import Lock
from torchlocks.lockfile.specs import satisfies

BASE_CHANGED = "base-changed"
BASE_PACKAGE = "base-package"
REQUIREMENT_UNMET = "requirement-unmet"
ADDITION_UNNEEDED = "addition-unneeded"
ENVIRONMENT = "environment-unreadable"
BASE_UNSEEN = "base-not-checked"

REASONS = {
    BASE_CHANGED: "A lock is built on one state of its base, which it names by its hash.",
    BASE_PACKAGE: "Every package of the base was proven together; another in its place was not.",
    REQUIREMENT_UNMET: "The lock must contain what its environment file requires.",
    ADDITION_UNNEEDED: "A package that neither the base nor a requirement needs was added by hand, or is left over.",
    ENVIRONMENT: "Without its environment file a lock cannot be made again.",
    BASE_UNSEEN: "With --require-base, a base that was not read is a failure.",
}

AGAIN = "run `torchlocks extend` again."


def check_extended(lock: Lock, shown: str, *, fetch_base: bool = False) -> Report:
    """Check a lock against its base and its environment file; the report is empty for a lock without a base.

    `shown` is the path in findings; the lock's own path determines its folder. `fetch_base` allows to fetch a base over
    the network.
    """
    built = read_built(lock.metadata)
    if built is None or lock.kind != "conda-lock":
        return Report()
    folder = lock.path.parent
    skipped: list[Skipped] = []
    findings: list[Finding] = []
    base: Base | None = None
    environment_file: EnvironmentFile | None = None
    why = ""
    if needs_network(built.base) and not fetch_base:
        why = f"the base {mask(built.base.text)} is on another machine, and is fetched with --fetch-base only"
    else:
        try:
            base = open_base(built.base, folder, as_recorded=True)
        except TorchlocksError as error:
            reason = "".join(f": {line}" for line in (error.details or "").splitlines()[:1])
            why = f"the base {mask(built.base.text)} cannot be read: {error.what.rstrip('.')}{reason.rstrip('.')}"
    if base is None:
        skipped += [Skipped(rule=rule, path=shown, reason=why) for rule in (BASE_CHANGED, BASE_PACKAGE)]
    environment = folder / built.environment
    if environment.is_file():
        try:
            environment_file = read_environment_file(environment)
        except TorchlocksError as error:
            findings.append(_finding(ENVIRONMENT, shown, error.what, fix=error.fix))
    else:
        why = f"the environment file {built.environment} does not exist"
        skipped += [
            Skipped(rule=rule, path=shown, reason=why) for rule in ("stale", REQUIREMENT_UNMET, ADDITION_UNNEEDED)
        ]
    if base is not None:
        findings += _against_base(lock, built, base, shown)
    if environment_file is not None:
        findings += _against_requirements(lock, environment_file, base, shown)
        findings += _files(lock, built, environment_file, base, shown)
    checked = [
        *(rule for rule in REASONS if rule != BASE_UNSEEN),
        *(rule.id for rule in check_files.RULES if environment_file is not None),
    ]
    rules = tuple(rule for rule in checked if rule not in {each.rule for each in skipped})
    return Report(
        findings=tuple(findings),
        skipped=tuple(skipped),
        rules=rules,
        bases_not_checked=(shown,) if base is None else (),
    )


def _against_base(lock: Lock, built: Built, base: Base, shown: str) -> Iterator[Finding]:
    missing = [platform for platform in lock.platforms if platform not in base.lock.platforms]
    different = [
        (platform, package.name, package.file_name, {found.name: found for found in lock.packages[platform]})
        for platform in lock.platforms
        for package in base.lock.packages.get(platform, ())
        if package not in lock.packages[platform]
    ]
    if base.lock.sha256 != built.sha256:
        names = sorted({name for _, name, _, _ in different} - set(built.moves))
        what = f"{len(names)} of its packages are others now ({', '.join(names[:6])}{' …' if len(names) > 6 else ''})"
        yield _finding(
            BASE_CHANGED,
            shown,
            f"the base {built.base.text} is not what it was when the lock was made (sha256 {built.sha256[:12]}, now "
            f"{base.lock.sha256[:12]}): {what if names else 'its packages are the same'}",
            fix="move to it with `torchlocks update --base`, or name a base that stays: ENVIRONMENT@TAG.",
        )
        return
    for platform in missing:
        yield _finding(BASE_PACKAGE, shown, f"the base does not exist for {platform}", platform=platform)
    for platform, name, file, held in different:
        found = held.get(name)
        if found is not None and name in built.moves:
            continue
        have = "the lock has none" if found is None else f"the lock has {found.file_name}"
        same = found is not None and found.file_name == file
        yield _finding(
            BASE_PACKAGE,
            shown,
            f"the base has {file}; {have}" + (", with another URL, hash or dependency" if same else ""),
            package=name,
            platform=platform,
        )


def _against_requirements(
    lock: Lock, environment_file: EnvironmentFile, base: Base | None, shown: str
) -> Iterator[Finding]:
    for platform, packages in lock.packages.items():
        by_name = {package.name: package for package in packages}
        asked = environment_file.on(platform)
        for requirement in asked:
            found = by_name.get(requirement.name)
            if requirement.name.startswith("__") or (found is not None and satisfies(found, requirement.spec)):
                continue
            have = found.file_name if found else "nothing of that name"
            yield _finding(
                REQUIREMENT_UNMET,
                shown,
                f"{requirement.spec!r} is requested ({requirement.place}); the lock has {have}",
                package=requirement.name,
                platform=platform,
            )
        if base is None:
            continue
        roots = [package.name for package in base.lock.packages.get(platform, ())] + [
            requirement.name for requirement in asked
        ]
        needed = reachable(packages, roots)
        for package in packages:
            if package.name not in needed:
                yield _finding(
                    ADDITION_UNNEEDED,
                    shown,
                    f"neither the base nor a requirement needs {package.file_name}",
                    package=package.name,
                    platform=platform,
                )


def _files(
    lock: Lock, built: Built, environment_file: EnvironmentFile, base: Base | None, shown: str
) -> Iterator[Finding]:
    """Apply the rules on an environment's folder to the files that are this lock's, and ignore others."""
    if lock.path.name != CONDA_LOCK:
        return
    like = lock if base is None else base.lock
    channels = lock.channels
    if base is not None:
        channels = all_channels(base, environment_file.channels if built.channels is None else built.channels)
    rows = {}
    for platform in environment_file.platforms or lock.platforms:
        virtual = virtual_packages(like, platform)
        try:
            current = input_hash(environment_file, like, platform, channels) if virtual else None
        except TorchlocksError as error:
            yield _finding(ENVIRONMENT, shown, error.what, platform=platform)
            return
        rows[platform] = Expectation(
            env=environment_file.name,
            platform=platform,
            accelerator="cuda" if "__cuda" in virtual else "cpu",
            channels=channels,
            requested=(),
            virtual_packages=virtual,
            content_hash=current,
        )
    held = check_files.read_folder(lock.path.parent, environment_file.name, rows)
    own = {CONDA_LOCK, PIXI, *(explicit_name(platform) for platform in {*rows, *lock.platforms})}
    held = replace(
        held,
        names=tuple(name for name in held.names if name in own),
        locks={name: found for name, found in held.locks.items() if name in own},
        errors={name: error for name, error in held.errors.items() if name in own},
    )
    top = Path(shown).parent
    for rule in check_files.RULES:
        for problem in rule.look(held):
            yield Finding(
                rule=rule.id,
                severity=problem.severity,
                path=str(top / problem.file) if problem.file else shown,
                message=problem.message,
                platform=problem.platform,
                package=problem.package,
                fix=problem.fix.replace(RELOCK, AGAIN) if problem.fix else AGAIN,
            )


def _finding(
    rule: str,
    path: str,
    message: str,
    *,
    fix: str | None = AGAIN,
    package: str | None = None,
    platform: str | None = None,
) -> Finding:
    return Finding(rule=rule, severity="error", path=path, message=message, fix=fix, package=package, platform=platform)

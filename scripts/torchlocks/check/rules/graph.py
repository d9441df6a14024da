"""Rules on relations between packages: dependencies, constraints, requested specs, and packages that nothing needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torchlocks.check.model import Problem, Subject, rule
from torchlocks.check.rules.packages import RELOCK
from torchlocks.lockfile.models import LockedPackage
from torchlocks.lockfile.specs import parse_spec, satisfies, spec_name, virtual_record

OWN_RULE = {"__glibc": "glibc-floor", "__cuda": "driver-floor"}
"""Virtual packages that have a rule of their own."""


def virtual_satisfies(subject: Subject, spec: str) -> bool | None:
    """Return whether the subject's virtual packages satisfy a spec; None if it does not have the package."""
    name, parsed = spec_name(spec), parse_spec(spec)
    found = subject.virtual_packages.get(name)
    if found is None:
        return None
    record = virtual_record(name, *found)
    return parsed is not None and record is not None and record.matches(parsed)


def _pairs(subject: Subject) -> Iterator[tuple[LockedPackage, str, bool]]:
    """Yield every package with each of its specs; True for a dependency, False for a constraint."""
    for package in subject.packages:
        for spec in package.depends or ():
            yield package, spec, True
        for spec in package.constrains or ():
            yield package, spec, False


@rule("dependency-unsatisfied", "A package without what it needs breaks when it is used.", "dependencies")
def dependency_unsatisfied(subject: Subject) -> Iterator[Problem]:
    by_name = subject.by_name
    for package, spec, is_dependency in _pairs(subject):
        if not is_dependency:
            continue
        parsed = parse_spec(spec)
        if parsed is None:
            yield Problem(
                message=f"{package.file_name} needs {spec!r}, which is no match spec", package=package.name, fix=RELOCK
            )
            continue
        name = spec_name(spec)
        if parsed.condition is not None or name.startswith("__"):
            continue
        found = by_name.get(name)
        if found is None or not satisfies(found, spec):
            have = found.file_name if found else "nothing of that name"
            yield Problem(
                message=f"{package.file_name} needs {spec!r}; the lock has {have}", package=package.name, fix=RELOCK
            )


@rule("constraint-violated", "A package's constraint excludes another one that the lock contains.", "dependencies")
def constraint_violated(subject: Subject) -> Iterator[Problem]:
    by_name = subject.by_name
    for package, spec, is_dependency in _pairs(subject):
        found = None if is_dependency else by_name.get(spec_name(spec))
        if found is not None and parse_spec(spec) is not None and not satisfies(found, spec):
            yield Problem(
                message=f"{package.file_name} allows only {spec!r}; the lock has {found.file_name}",
                package=package.name,
                fix=RELOCK,
            )


@rule(
    "virtual-package",
    "A lock that needs more of a machine than its row promises does not install there.",
    "dependencies",
    "virtual-packages",
)
def virtual_package(subject: Subject) -> Iterator[Problem]:
    for package, spec, is_dependency in _pairs(subject):
        name = spec_name(spec)
        if not name.startswith("__") or (name in OWN_RULE and subject.virtual_packages.get(name)):
            continue
        answer = virtual_satisfies(subject, spec)
        # A constraint on a virtual package that is not there holds.
        if answer is False or (answer is None and is_dependency):
            version, build = subject.virtual_packages.get(name, ("", ""))
            have = f"{name} {version} {build}".strip() if answer is False else f"no {name}"
            yield Problem(
                message=f"{package.file_name} needs {spec!r}; this platform has {have}",
                package=package.name,
                fix="change the platform's virtual_packages in matrix.yml, or " + RELOCK,
            )


@rule("request-unmet", "The lock must contain the requested packages.", "row")
def request_unmet(subject: Subject) -> Iterator[Problem]:
    by_name = subject.by_name
    for spec in subject.row.requested if subject.row else ():
        name = spec_name(spec)
        found = by_name.get(name)
        if found is None or not satisfies(found, spec):
            have = found.file_name if found else "nothing of that name"
            yield Problem(message=f"{spec!r} is requested; the lock has {have}", package=name, fix=RELOCK)


@rule("unneeded-package", "A package that no request needs was added by hand, or is left over.", "row", "dependencies")
def unneeded_package(subject: Subject) -> Iterator[Problem]:
    needed = reachable(subject.packages, [spec_name(spec) for spec in subject.row.requested] if subject.row else [])
    for package in subject.packages:
        if package.name not in needed:
            yield Problem(message=f"no requested package needs {package.file_name}", package=package.name, fix=RELOCK)


def reachable(
    packages: Iterable[LockedPackage], roots: Iterable[str], stop: Callable[[LockedPackage], bool] | None = None
) -> set[str]:
    """Return the names of the packages that `roots` need, directly or not, including themselves.

    Dependencies of a package for which `stop` is true are not followed; the package itself is included.
    """
    by_name = {package.name: package for package in packages}
    reached: set[str] = set()
    waiting = [name for name in roots if name in by_name]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            if stop is None or not stop(by_name[name]):
                waiting += [other for spec in by_name[name].depends or () if (other := spec_name(spec)) in by_name]
    return reached


RULES = (dependency_unsatisfied, constraint_violated, virtual_package, request_unmet, unneeded_package)

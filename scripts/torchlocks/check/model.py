"""What a rule is: which locks it applies to, what it requires, and what it yields.

A rule is a small generator with an id and a reason of one line. It yields problems; the runner adds their place. A rule
that cannot be applied to a lock reports why, so that no finding always means that the rule ran.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from torchlocks.core.printing import printable
from torchlocks.cuda.packages import torch_package
from torchlocks.cuda.python_packages import as_conda
from torchlocks.extend.built import read_built
from torchlocks.lockfile.models import Lock, LockedPackage, PipPackage
from torchlocks.lockfile.virtual import VirtualPackage, parse_virtual

if TYPE_CHECKING:
    from torchlocks.matrix.target import Target

Severity = Literal["error", "warning"]
S = TypeVar("S")
"""What a rule is applied to: a `Subject`, the folder of an environment, or a pair of environments."""
Need = Literal["dependencies", "own", "row", "virtual-packages", "torch"]


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What one environment on one platform should be, from the matrix and the rendered template.

    `requested` are the rendered match specs; `virtual_packages` map a name to "version" or "version build";
    `content_hash` is the hash of a current lock, None if it was not computed.
    """

    env: str
    platform: str
    accelerator: Literal["cpu", "cuda"]
    channels: tuple[str, ...]
    requested: tuple[str, ...]
    virtual_packages: Mapping[str, str]
    cuda: str | None = None
    cuda_pinned: bool = True
    driver_floor: str | None = None
    driver_shipped: str | None = None
    architectures: tuple[str, ...] = ()
    ptx: str | None = None
    oldest_gpu: str | None = None
    content_hash: str | None = None


def expectation(target: Target, rendered: str, content_hash: str | None = None) -> Expectation:
    """Return the expectation for a target of the matrix and its rendered environment file."""
    from torchlocks.matrix.render import requested

    return Expectation(
        env=target.env,
        platform=target.platform,
        accelerator=target.accelerator,
        channels=target.channels,
        requested=requested(rendered),
        virtual_packages=target.virtual_packages,
        cuda=target.cuda,
        cuda_pinned=target.cuda_version is not None,
        driver_floor=target.driver_floor,
        driver_shipped=target.driver.shipped if target.driver else None,
        architectures=target.architectures,
        ptx=target.ptx,
        oldest_gpu=target.oldest_gpu,
        content_hash=content_hash,
    )


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One platform of one lock, as the rules get it. `row` is None for a lock that is not in the matrix."""

    lock: Lock
    platform: str
    packages: tuple[LockedPackage, ...]
    row: Expectation | None = None

    @property
    def pip(self) -> tuple[PipPackage, ...]:
        """The packages that the lock leaves to pip on this platform."""
        return self.lock.pip.get(self.platform, ())

    @cached_property
    def everything(self) -> tuple[LockedPackage, ...]:
        """The lock's packages and pip's under their conda names; conda's if both have one."""
        names = {package.name for package in self.packages}
        others = (package for package in as_conda(self.pip, self.subdir) if package.name not in names)
        return (*self.packages, *others)

    @property
    def subdir(self) -> str:
        """The conda subdir of the platform, which a pixi.lock may name differently."""
        return self.lock.subdir(self.platform)

    @property
    def by_name(self) -> dict[str, LockedPackage]:
        return {package.name: package for package in self.packages}

    @property
    def virtual_packages(self) -> dict[str, tuple[str, str]]:
        """Name to (version, build): the row's, else those that the lock records."""
        if self.row is not None:
            found = {name: VirtualPackage.from_value(value) for name, value in self.row.virtual_packages.items()}
        else:
            found = parse_virtual(self.lock.virtual_packages.get(self.platform, ()))
        return {name: package.full for name, package in found.items()}

    def lacks(self, need: Need) -> str | None:
        """Return why a rule with this requirement cannot be applied; None if it can."""
        if need == "dependencies" and any(package.depends is None for package in self.packages):
            return "explicit files do not list dependencies"
        if need == "own" and self.row is None and read_built(self.lock.metadata) is None:
            # Other tools take packages of channels that their lock does not name: labels, `channel::package`, mirrors.
            return "the lock was made elsewhere, where packages may come from channels that it does not name"
        if need == "row" and self.row is None:
            return "the lock is not an environment of matrix.yml, so its expected contents are not known"
        if need == "virtual-packages" and not self.virtual_packages:
            return "the lock does not record the virtual packages that it was solved with"
        if need == "torch" and torch_package(self.everything) is None:
            return "the lock contains no PyTorch"
        return None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a rule found, before the runner adds its place.

    `platform` and `file` are set by rules that compare several.
    """

    message: str
    package: str | None = None
    fix: str | None = None
    severity: Severity = "error"
    platform: str | None = None
    file: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rule(Generic[S]):
    """A rule on one platform of a lock, on a folder, or on a pair of environments."""

    id: str
    reason: str
    needs: tuple[Need, ...]
    look: Callable[[S], Iterator[Problem]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong with a lock: the rule that found it, where, and what to do.

    `environments` are those of a pixi.lock of several in which it was found.
    """

    rule: str
    severity: Severity
    path: str
    message: str
    env: str | None = None
    platform: str | None = None
    package: str | None = None
    fix: str | None = None
    environments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _make_printable(self)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A rule that could not be applied, and the reason."""

    rule: str
    path: str
    reason: str
    platform: str | None = None

    def __post_init__(self) -> None:
        _make_printable(self)


def _make_printable(each: Finding | Skipped) -> None:
    """Escape control characters and hide secrets in all texts, since they contain names and URLs of any lock."""
    for name, value in vars(each).items():
        if isinstance(value, str):
            object.__setattr__(each, name, printable(value, lines=name in ("message", "fix")))


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a check: findings, what could not be checked, and how much was checked.

    `bases_not_checked` are the paths of locks whose base was not read. `environments` maps the path of a pixi.lock of
    several environments to those that were checked.
    """

    findings: tuple[Finding, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    locks: int = 0
    packages: int = 0
    rules: tuple[str, ...] = field(default=())
    bases_not_checked: tuple[str, ...] = ()
    environments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the findings contain an error; warnings do not fail a check."""
        return any(finding.severity == "error" for finding in self.findings)

    def only(self, rules: Collection[str]) -> Report:
        """Return the findings of some rules, and always `unreadable`, since no rule can be applied to such a lock."""
        kept = {*rules, "unreadable"}
        return replace(
            self,
            findings=tuple(finding for finding in self.findings if finding.rule in kept),
            skipped=tuple(skip for skip in self.skipped if skip.rule in kept),
            rules=tuple(rule for rule in self.rules if rule in kept),
        )

    def __add__(self, other: Report) -> Report:
        return Report(
            findings=self.findings + other.findings,
            skipped=self.skipped + other.skipped,
            locks=self.locks + other.locks,
            packages=self.packages + other.packages,
            rules=tuple(dict.fromkeys((*self.rules, *other.rules))),
            bases_not_checked=self.bases_not_checked + other.bases_not_checked,
            environments={**self.environments, **other.environments},
        )


def rule(id: str, reason: str, *needs: Need) -> Callable[[Callable[[S], Iterator[Problem]]], Rule[S]]:
    """Register a generator as a rule. It is skipped where something of `needs` is missing."""
    return lambda look: Rule(id=id, reason=reason, needs=needs, look=look)

"""Rules across environments: CPU and GPU differ only in the accelerator and its pins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torchlocks.check.model import Problem, Subject, rule
from torchlocks.check.rules.graph import reachable
from torchlocks.cuda.packages import is_cuda_package
from torchlocks.lockfile.models import LockedPackage
from torchlocks.lockfile.specs import spec_name
from torchlocks.matrix.cells import Parity

ROW_PINS = ("python", "pytorch", "torchvision", "torchaudio", "cuda-version", "pytorch-cuda")
"""What a row of the matrix chooses, and so may differ from row to row."""


_VERSIONS = ("python", "pytorch", "torchvision")
"""Packages whose versions a pair has in common."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """What is compared of one environment on one platform, in a hundredth of the memory of its lock.

    `requested` are its match specs, `names` those of all packages. `versions` map the packages whose versions count to
    theirs. `shared` maps the packages that requests common to both environments need, on a path without declared
    packages, to their file names.
    """

    requested: tuple[str, ...]
    versions: Mapping[str, str]
    names: tuple[str, ...]
    shared: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A CPU and a GPU environment on one platform. `constraints` names the libraries that the CUDA row holds back."""

    cpu: Side
    gpu: Side
    constraints: frozenset[str] = frozenset()


def side_of(subject: Subject, declared: Parity) -> Side:
    """Return what is compared of one environment.

    `declared` has shell patterns of package names (`parity` in matrix.yml). These packages, what a row pins, and what
    only they require, may differ.
    """
    by_name = subject.by_name
    patterns = (*declared.accelerator, *declared.variant)

    def may_differ(package: LockedPackage) -> bool:
        return (
            package.name in ROW_PINS
            or is_cuda_package(package)
            or any(fnmatchcase(package.name, pattern) for pattern in patterns)
        )

    requested = subject.row.requested if subject.row else ()
    roots = [spec_name(spec) for spec in requested]
    reached = reachable(subject.packages, (name for name in roots if name not in ROW_PINS), may_differ)
    return Side(
        requested=requested,
        versions={name: by_name[name].version for name in _VERSIONS if name in by_name},
        names=tuple(by_name),
        shared={
            package.name: package.file_name
            for package in subject.packages
            if package.name in reached and not may_differ(package)
        },
    )


@rule("parity-requests", "Code that runs in one environment must find the same packages in the other.")
def requested(pair: Pair) -> Iterator[Problem]:
    asked = []
    for side in (pair.cpu, pair.gpu):
        named = {spec_name(spec): spec for spec in side.requested}
        asked.append({name: spec for name, spec in named.items() if name not in {*ROW_PINS, *pair.constraints}})
    cpu, gpu = asked
    for name in sorted(cpu.keys() | gpu.keys()):
        if cpu.get(name) != gpu.get(name):
            yield Problem(
                message=f"the CPU environment asks for {cpu.get(name, 'no ' + name)!r}, "
                f"this one for {gpu.get(name, 'no ' + name)!r}",
                package=name,
                fix="ask for the same in environment-cpu.yml and environment-gpu.yml.",
            )


@rule("parity-versions", "Code that moves between the CPU and the GPU must not meet another PyTorch or torchvision.")
def versions(pair: Pair) -> Iterator[Problem]:
    for name in _VERSIONS:
        have = [side.versions.get(name, "none") for side in (pair.cpu, pair.gpu)]
        if have[0] != have[1] and (name != "python" or have[0].split(".")[:2] != have[1].split(".")[:2]):
            yield Problem(
                message=f"the CPU environment has {name} {have[0]}, this one {have[1]}",
                package=name,
                fix="lock both from the same records, or give one of them another variant in matrix.yml.",
            )


@rule("parity-packages", "What only one environment has must be declared, or it is an accident.")
def packages(pair: Pair) -> Iterator[Problem]:
    for side, other, here, there in (
        (pair.gpu, pair.cpu, "this environment", "the CPU one"),
        (pair.cpu, pair.gpu, "the CPU environment", "this one"),
    ):
        for name in sorted(side.shared.keys() - set(other.names)):
            yield Problem(
                message=f"{side.shared[name]} is in {here} and not in {there}, and no declared package brings it",
                package=name,
                fix="declare it under `parity` in matrix.yml if it comes with the accelerator or the torch build.",
            )


RULES = (requested, versions, packages)

UNPAIRED = (requested, packages)
"""What is compared where the two are not a pair: they have different versions by design."""

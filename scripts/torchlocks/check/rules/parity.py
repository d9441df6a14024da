"""Rules across environments: CPU and GPU differ only in the accelerator and its pins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torchlocks.check.model import Problem, Subject, rule
from torchlocks.check.rules.graph import reachable
from torchlocks.cuda.packages import is_cuda_package
from torchlocks.lockfile.models import LockedPackage
from torchlocks.lockfile.specs import spec_name

ROW_PINS = ("python", "pytorch", "torchvision", "torchaudio", "cuda-version", "pytorch-cuda")
"""What a row of the matrix chooses, and so may differ from row to row."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A CPU and a GPU environment on one platform, and what may differ between the two.

    `accelerator` and `variant` are shell patterns of package names (`parity` in matrix.yml). These packages, what a row
    pins, and what only they require, may differ. `constraints` names the libraries that the CUDA row holds back.
    """

    cpu: Subject
    gpu: Subject
    accelerator: tuple[str, ...]
    variant: tuple[str, ...]
    constraints: frozenset[str] = frozenset()


@rule("parity-requests", "Code that runs in one environment must find the same packages in the other.")
def requested(pair: Pair) -> Iterator[Problem]:
    asked = []
    for side in (pair.cpu, pair.gpu):
        specs = side.row.requested if side.row else ()
        named = {spec_name(spec): spec for spec in specs}
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
    for name in ("python", "pytorch", "torchvision"):
        cpu, gpu = pair.cpu.by_name.get(name), pair.gpu.by_name.get(name)
        have = [package.version if package else "none" for package in (cpu, gpu)]
        if have[0] != have[1] and (name != "python" or have[0].split(".")[:2] != have[1].split(".")[:2]):
            yield Problem(
                message=f"the CPU environment has {name} {have[0]}, this one {have[1]}",
                package=name,
                fix="lock both from the same records, or give one of them another variant in matrix.yml.",
            )


@rule("parity-packages", "What only one environment has must be declared, or it is an accident.")
def packages(pair: Pair) -> Iterator[Problem]:
    cpu, gpu = _common(pair, pair.cpu), _common(pair, pair.gpu)
    for side, other, here, there in (
        (gpu, pair.cpu.by_name, "this environment", "the CPU one"),
        (cpu, pair.gpu.by_name, "the CPU environment", "this one"),
    ):
        for name in sorted(side.keys() - other.keys()):
            yield Problem(
                message=f"{side[name].file_name} is in {here} and not in {there}, and no declared package brings it",
                package=name,
                fix="declare it under `parity` in matrix.yml if it comes with the accelerator or the torch build.",
            )


def _common(pair: Pair, subject: Subject) -> dict[str, LockedPackage]:
    """Return the packages that requests common to both environments need, on a path without declared packages."""

    def declared(package: LockedPackage) -> bool:
        return (
            package.name in ROW_PINS
            or is_cuda_package(package)
            or any(fnmatchcase(package.name, pattern) for pattern in (*pair.accelerator, *pair.variant))
        )

    roots = [spec_name(spec) for spec in subject.row.requested] if subject.row else []
    reached = reachable(subject.packages, (name for name in roots if name not in ROW_PINS), declared)
    return {package.name: package for package in subject.packages if package.name in reached and not declared(package)}


RULES = (requested, versions, packages)

UNPAIRED = (requested, packages)
"""What is compared where the two are not a pair: they have different versions by design."""

"""Rules on pairs of packages with known defects, for locks of any origin (see cuda/known_pairs)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torchlocks.check.model import Problem, Severity, Subject, rule
from torchlocks.cuda import known_pairs as facts
from torchlocks.cuda.packages import torch_package
from torchlocks.cuda.python_packages import is_pip, twice
from torchlocks.lockfile.models import LockedPackage
from torchlocks.lockfile.specs import satisfies, spec_name


@rule("installed-twice", "Of one project from conda and from pip, each overwrites the other's files.")
def installed_twice(subject: Subject) -> Iterator[Problem]:
    for package, other in twice(subject.packages, subject.pip):
        yield Problem(
            message=f"{package.file_name} is in the lock, and so is {other.requirement} of pip",
            package=package.name,
            fix="leave one of the two out of the environment, and lock again.",
        )


@rule("mkl-ijit", "torch of the pytorch channel does not import with MKL 2024.1 and newer (iJIT_NotifyEvent).", "torch")
def mkl_ijit(subject: Subject) -> Iterator[Problem]:
    torch, mkl = torch_package(subject.everything), subject.by_name.get("mkl")
    if (
        torch is None
        or mkl is None
        or not subject.subdir.startswith("linux-")
        or not facts.is_pytorch_channel_build(torch.build)
        or facts.older(mkl.version, facts.MKL_WITHOUT_IJIT)
    ):
        return
    yield Problem(
        message=f"{torch.file_name} needs the symbol iJIT_NotifyEvent, which {mkl.file_name} does not have",
        package="mkl",
        fix="ask for `mkl <2024.1`, and lock again (pytorch issue 123097).",
    )


@rule("numpy-abi", "torch that was built for NumPy 1 cannot share arrays with NumPy 2.", "torch")
def numpy_abi(subject: Subject) -> Iterator[Problem]:
    torch = torch_package(subject.everything)
    numpy = next((each for each in subject.everything if each.name == "numpy"), None)
    if torch is None or numpy is None or not torch.version or not numpy.version or facts.older(numpy.version, "2"):
        return
    windows_wheel = is_pip(torch) and subject.subdir.startswith("win-")
    first = facts.NUMPY2_TORCH_WINDOWS_WHEEL if windows_wheel else facts.NUMPY2_TORCH
    if facts.older(torch.version, first):
        yield Problem(
            message=f"{_shown(torch)} was built for NumPy 1, and the lock has {_shown(numpy)}",
            package="numpy",
            fix=f"ask for `numpy <2`, or for torch {first} or newer.",
        )


@rule("torch-companions", "torchvision, torchaudio and Triton are each made for one release of torch.", "torch")
def torch_companions(subject: Subject) -> Iterator[Problem]:
    yield from _companions(subject, {"torchvision": facts.TORCHVISION}, "error")
    yield from _companions(subject, {"torchaudio": facts.TORCHAUDIO}, "error")
    yield from _companions(subject, {"triton": facts.TRITON, "torchtriton": facts.TRITON}, "error")


@rule("nccl-version", "torch's wheels are tested with the NCCL that they pin.", "torch")
def nccl_version(subject: Subject) -> Iterator[Problem]:
    torch = torch_package(subject.everything)
    if torch is not None and is_pip(torch):
        names = {"nvidia-nccl-cu12": facts.NCCL, "nvidia-nccl-cu13": facts.NCCL}
        yield from _companions(subject, names, "warning")


def _companions(subject: Subject, tables: Mapping[str, Mapping[str, str]], severity: Severity) -> Iterator[Problem]:
    torch = torch_package(subject.everything)
    for package in subject.everything:
        table = tables.get(package.name)
        wanted = facts.companion(table, torch.version, package.version) if table and torch else None
        if table is None or torch is None or wanted is None:
            continue
        if _states(package, torch) or _states(torch, package):
            # conda-forge compiles a companion for other releases of torch, too; its dependency names them.
            continue
        compiled_elsewhere = package.depends is None and not (is_pip(package) or is_pip(torch))
        forge = compiled_elsewhere and not facts.is_pytorch_channel_build(torch.build)
        other = facts.torch_of(table, package.version)
        yield Problem(
            message=f"{_shown(package)} belongs to torch {other}, and the lock has {_shown(torch)}"
            if other
            else f"{_shown(package)} is not the {package.name} of {_shown(torch)}",
            package=package.name,
            fix=f"ask for `{package.name} {wanted}.*`, or for the torch that it belongs to.",
            # An explicit file does not record for which torch the channel compiled it.
            severity="warning" if forge else severity,
        )


def _states(package: LockedPackage, other: LockedPackage) -> bool:
    """Return whether a package's own dependencies name a version of `other` that it satisfies."""
    return any(
        spec_name(spec) == other.name and len(spec.split()) > 1 and satisfies(other, spec)
        for spec in package.depends or ()
    )


@rule("openmp-twice", "Two OpenMP runtimes in one process oversubscribe cores, or end it (OMP: Error #15).")
def openmp_twice(subject: Subject) -> Iterator[Problem]:
    by_name = subject.by_name
    intel, llvm = by_name.get("intel-openmp"), by_name.get("llvm-openmp")
    mutex, gnu = by_name.get("_openmp_mutex"), by_name.get("libgomp")
    pairs: list[tuple[LockedPackage, LockedPackage]] = []
    if intel and llvm:
        pairs.append((intel, llvm))
    # With `_openmp_mutex *_llvm` libgomp's library is a link to LLVM's; with `*_gnu` it is one more runtime.
    # On Windows nothing of torch's uses GNU's, which comes with the libraries of a compiler.
    elif intel and gnu and mutex and mutex.build.endswith("gnu") and subject.subdir.startswith("linux-"):
        pairs.append((intel, gnu))
    torch = torch_package(subject.everything)
    conda = intel or llvm
    # The wheels for Windows and macOS bring a runtime of their own; LLVM's and Intel's refuse to load beside another.
    if torch and conda and is_pip(torch) and not subject.subdir.startswith("linux-"):
        pairs.append((conda, torch))
    for one, other in pairs:
        yield Problem(
            message=f"{_shown(one)} and {_shown(other)} each bring an OpenMP runtime",
            package=one.name,
            fix="take torch and the packages of MKL from one channel, and not from pip.",
            severity="warning",
        )


def _shown(package: LockedPackage) -> str:
    return package.file_name if not is_pip(package) else f"{package.file_name} of pip"


RULES = (installed_twice, mkl_ijit, numpy_abi, torch_companions, nccl_version, openmp_twice)

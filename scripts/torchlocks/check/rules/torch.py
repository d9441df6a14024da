"""Rules on torch and CUDA: a CPU lock has no CUDA package, a GPU lock has one complete CUDA of the row's version."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from torchlocks.check.model import Problem, Subject, rule
from torchlocks.check.rules.graph import virtual_satisfies
from torchlocks.check.rules.packages import RELOCK
from torchlocks.cuda.packages import (
    TORCH_FAMILY,
    Variant,
    built_for,
    compiles,
    is_cuda_package,
    minor,
    torch_package,
    variant_of,
)
from torchlocks.cuda.python_packages import pip_cuda_major
from torchlocks.lockfile.specs import parse_spec, spec_name, virtual_record
from torchlocks.lockfile.virtual import parse_virtual

PIN = "pin torch's build string in matrix.yml (`build:`), then `make lock`."


def _torch_variant(subject: Subject) -> Variant | None:
    torch = torch_package(subject.everything)
    return variant_of(torch.build) if torch else None


@rule("cpu-holds-cuda", "A CPU lock that needs CUDA is gigabytes too large and does not install everywhere.", "row")
def cpu_holds_cuda(subject: Subject) -> Iterator[Problem]:
    if subject.row is None or subject.row.accelerator != "cpu":
        return
    for package in subject.packages:
        if is_cuda_package(package):
            yield Problem(message=f"{package.file_name} belongs to CUDA, in a CPU lock", package=package.name, fix=PIN)
    solved_with = parse_virtual(subject.lock.virtual_packages.get(subject.platform, ()))
    if "__cuda" in {*solved_with, *subject.row.virtual_packages}:
        yield Problem(
            message="the lock was solved with __cuda, which lets CUDA builds in",
            package="__cuda",
            fix="lock a CPU environment without __cuda.",
        )


@rule("torch-not-cuda", "A CPU torch in a GPU lock runs slowly, and without a warning.", "row", "torch")
def torch_not_cuda(subject: Subject) -> Iterator[Problem]:
    if subject.row is None or subject.row.accelerator != "cuda":
        return
    for package in subject.packages:
        if package.name in ("pytorch", "libtorch", "torchvision", "torchaudio"):
            variant = built_for(package)
            if variant is None or variant.accelerator != "cuda":
                yield Problem(
                    message=f"{package.file_name} is not a CUDA build, in a GPU lock", package=package.name, fix=PIN
                )


@rule("torch-mixed", "Torch for the CPU and torch for CUDA cannot share one environment.", "torch")
def torch_mixed(subject: Subject) -> Iterator[Problem]:
    torch = torch_package(subject.everything)
    variant = _torch_variant(subject)
    if torch is None or variant is None:
        return
    by_name = subject.by_name
    marks = {"pytorch-cpu": "cpu", "cpuonly": "cpu", "pytorch-gpu": "cuda", "pytorch-cuda": "cuda"}
    mutex = by_name.get("pytorch-mutex")
    if mutex is not None:
        marks["pytorch-mutex"] = mutex.build.split("_")[0]
    library = by_name.get("libtorch")
    if library is not None and (other := variant_of(library.build)) is not None:
        marks["libtorch"] = other.accelerator
    for name, accelerator in marks.items():
        if name in by_name and accelerator != variant.accelerator:
            yield Problem(
                message=f"{by_name[name].file_name} is in one lock with {torch.file_name}, which is for {variant}",
                package=name,
                fix=PIN,
            )


@rule("torch-variant", "Extensions of torch must be built for the CUDA that torch was built for.", "torch")
def torch_variant(subject: Subject) -> Iterator[Problem]:
    torch = torch_package(subject.everything)
    variant = _torch_variant(subject)
    if torch is None or variant is None:
        return
    for package in subject.everything:
        other = built_for(package) if package.name in TORCH_FAMILY else None
        if other is None:
            continue
        if other.accelerator != variant.accelerator or (
            # Builds of two minors of one major work together; what each needs of the libraries is in its dependencies.
            other.major and variant.major and other.major != variant.major
        ):
            yield Problem(
                message=f"{package.file_name} is for {other}, {torch.file_name} for {variant}",
                package=package.name,
                fix=RELOCK,
            )


@rule("cuda-version", "The CUDA libraries must be those that the environment is named for.", "row")
def cuda_version(subject: Subject) -> Iterator[Problem]:
    row = subject.row
    if row is None or row.cuda is None:
        return
    names = ["pytorch-cuda", *(["cuda-version", "cudatoolkit"] if row.cuda_pinned else [])]
    found = [subject.by_name[name] for name in names if name in subject.by_name]
    if not found:
        yield Problem(
            message=f"no package of the lock names CUDA {row.cuda}: there is no {', '.join(names)}",
            package=names[-1],
            fix=RELOCK,
        )
    for package in found:
        if minor(package.version) != row.cuda:
            yield Problem(
                message=f"{package.file_name} is for CUDA {minor(package.version)}, the row for {row.cuda}",
                package=package.name,
                fix=RELOCK,
            )


@rule("cuda-majors", "Libraries of two CUDA majors in one process end in undefined symbols.")
def cuda_majors(subject: Subject) -> Iterator[Problem]:
    majors: dict[int, list[str]] = defaultdict(list)
    for package in subject.everything:
        if (major := pip_cuda_major(package)) is not None:
            majors[major].append(package.file_name)
            continue
        # Other CUDA libraries count versions of their own: libcufft 11 belongs to CUDA 12.
        if package.name in ("cuda-version", "cudatoolkit", "pytorch-cuda", "cuda-cudart", "cuda-nvrtc"):
            head = package.version.split(".")[0]
            if head.isdecimal():
                majors[int(head)].append(package.file_name)
        elif (variant := variant_of(package.build)) is not None and variant.major is not None:
            majors[variant.major].append(package.file_name)
    if len(majors) > 1:
        named = "; ".join(f"CUDA {major}: {', '.join(sorted(files)[:3])}" for major, files in sorted(majors.items()))
        yield Problem(message=f"the lock mixes CUDA majors ({named})", fix=RELOCK)


@rule("glibc-floor", "A lock must run on the oldest glibc that its row promises.", "dependencies", "virtual-packages")
def glibc_floor(subject: Subject) -> Iterator[Problem]:
    yield from _floor(subject, "__glibc", "raise glibc in matrix.yml, or lock older packages.")


@rule("driver-floor", "A lock must run on the oldest driver that its row promises.", "virtual-packages")
def driver_floor(subject: Subject) -> Iterator[Problem]:
    yield from _floor(subject, "__cuda", "raise virtual_cuda in matrix.yml, or lock older packages.")
    row = subject.row
    if row is None or row.cuda is None or row.driver_floor in (None, row.driver_shipped):
        return
    # NVIDIA's minor-version compatibility: the oldest driver of a major reports that major's first minor.
    # https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
    solved = row.virtual_packages.get("__cuda", "")
    first = f"{row.cuda.split('.')[0]}.0"
    if solved != first:
        yield Problem(
            message=f"the row promises driver {row.driver_floor}, which reports __cuda {first}, "
            f"but was solved with __cuda {solved or 'none'}",
            package="__cuda",
            fix=f"set virtual_cuda to {first} in matrix.yml, or the driver's floor to {row.driver_shipped}.",
        )


def _floor(subject: Subject, name: str, fix: str) -> Iterator[Problem]:
    found = subject.virtual_packages.get(name)
    if found is None:
        return
    for package in subject.packages:
        for spec in (*(package.depends or ()), *(package.constrains or ())):
            if spec_name(spec) == name and virtual_satisfies(subject, spec) is False:
                yield Problem(
                    message=f"{package.file_name} demands {spec!r}; the lock is for {name} {found[0]}",
                    package=package.name,
                    fix=fix,
                )


@rule("gpu-architectures", "A GPU that torch has no code for fails at the first kernel.", "row", "torch")
def gpu_architectures(subject: Subject) -> Iterator[Problem]:
    row = subject.row
    if row is None or row.accelerator != "cuda":
        return
    variant = _torch_variant(subject)
    toolkit = variant.cuda if variant and variant.cuda and "." in variant.cuda else row.cuda
    if not row.architectures:
        yield Problem(message="the row names no GPU architectures", fix="fill in `architectures` in matrix.yml.")
    for capability in dict.fromkeys((*row.architectures, *([row.ptx] if row.ptx else []))):
        answer = compiles(toolkit or "", capability)
        if answer is None:
            yield Problem(
                message=f"compute capability {capability} is not known to torchlocks",
                severity="warning",
                fix="check it against NVIDIA's list, and add it to cuda/packages.py.",
            )
        elif not answer:
            yield Problem(
                message=f"the row claims compute capability {capability}, which CUDA {toolkit} cannot compile for",
                fix="correct `architectures` or `ptx` in matrix.yml.",
            )
    # `__cuda_arch` is new (2026); records with it list the GPUs that a package is built for.
    for package in subject.packages:
        for spec in (*(package.depends or ()), *(package.constrains or ())):
            if spec_name(spec) == "__cuda_arch" and not _any_architecture(row.architectures, spec):
                yield Problem(
                    message=f"{package.file_name} demands {spec!r}, which none of the row's architectures is",
                    package=package.name,
                    fix="correct `architectures` in matrix.yml.",
                )


def _any_architecture(architectures: tuple[str, ...], spec: str) -> bool:
    parsed = parse_spec(spec)
    records = [virtual_record("__cuda_arch", each, "0") for each in architectures]
    return parsed is not None and any(record is not None and record.matches(parsed) for record in records)


RULES = (
    cpu_holds_cuda,
    torch_not_cuda,
    torch_mixed,
    torch_variant,
    cuda_version,
    cuda_majors,
    glibc_floor,
    driver_floor,
    gpu_architectures,
)

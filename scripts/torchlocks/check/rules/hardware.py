"""Rules on the GPUs that a lock promises, and on packages that their channel has withdrawn."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.version import Version

from torchlocks.check.model import Problem, Subject, rule
from torchlocks.cuda.libraries import limits_of, oldest_gpu, withdrawn
from torchlocks.cuda.packages import cuda_version


@rule("gpu-libraries", "A GPU that a library has no code for fails at the first call of it.", "row", "torch")
def gpu_libraries(subject: Subject) -> Iterator[Problem]:
    row = subject.row
    if row is None or row.accelerator != "cuda":
        return
    limits = limits_of(subject.everything)
    for limit in limits:
        lost = [each for each in row.architectures if Version(each) < Version(limit.oldest)]
        if lost:
            yield Problem(
                message=f"the row promises compute capability {', '.join(lost)}, and {limit}",
                package=limit.library,
                fix=f'set oldest_gpu: "{limit.oldest}" in matrix.yml, or constrain the library (`constraints:`).',
            )
    oldest = oldest_gpu(limits)
    if row.oldest_gpu and oldest and Version(row.oldest_gpu) > Version(oldest):
        yield Problem(
            message=f"the row promises compute capability {row.oldest_gpu} at least, and all libraries have {oldest}",
            fix=f'set oldest_gpu: "{oldest}" in matrix.yml, or remove it.',
            severity="warning",
        )


@rule("withdrawn", "What a channel has withdrawn is known not to work.")
def withdrawn_packages(subject: Subject) -> Iterator[Problem]:
    version = cuda_version(subject.packages)
    major = int(version.split(".")[0]) if version and version.split(".")[0].isdecimal() else None
    for package in subject.packages:
        entry = withdrawn(package, major)
        if entry is not None:
            yield Problem(
                message=f"{entry.channel} has withdrawn {package.file_name}, which does not work on GPUs older than "
                f"sm_{entry.harms_before.replace('.', '')} ({entry.source})",
                package=package.name,
                fix=f"ask for `{package.name} <{entry.since}`, and lock again.",
                # A lock from elsewhere may be for newer GPUs alone.
                severity="error" if subject.row is not None else "warning",
            )


RULES = (gpu_libraries, withdrawn_packages)

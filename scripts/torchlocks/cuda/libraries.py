"""From which compute capability the CUDA libraries of an environment have code, by version, with sources.

torch may have code for a GPU that one of its libraries has none for: a V100 runs torch for CUDA 12, and not cuDNN 9.13.
The libraries of the CUDA toolkit (cuBLAS, cuFFT, NCCL and so on) have code for what their toolkit compiles for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from torchlocks.lockfile.models import LockedPackage


@dataclass(frozen=True, kw_only=True)
class LibraryFact:
    """From version `since` on, the library in `packages` has no code for GPUs older than `oldest`."""

    library: str
    packages: tuple[str, ...]
    since: str
    oldest: str
    source: str


_CUDNN = ("cudnn", "libcudnn", "nvidia-cudnn-cu11", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
_TOOLKIT = ("cuda-version", "cudatoolkit", "libcublas", "cuda-cudart", "nvidia-cublas-cu12", "nvidia-cublas")
_RELEASE_NOTES = "NVIDIA, CUDA Toolkit release notes, architecture support"

FACTS = (
    LibraryFact(
        library="cuDNN",
        packages=_CUDNN,
        since="9.0",
        oldest="5.0",
        source="NVIDIA, cuDNN support matrix, 9.0.0: compute capabilities 5.0 to 9.0",
    ),
    LibraryFact(
        library="cuDNN",
        packages=_CUDNN,
        since="9.11",
        oldest="7.5",
        source="conda-forge/admin-requests pull request 1742; pytorch/pytorch issue 162574",
    ),
    LibraryFact(library="CUDA", packages=_TOOLKIT, since="11.0", oldest="3.5", source=f"{_RELEASE_NOTES}, 11.0"),
    LibraryFact(library="CUDA", packages=_TOOLKIT, since="12.0", oldest="5.0", source=f"{_RELEASE_NOTES}, 12.0"),
    LibraryFact(library="CUDA", packages=_TOOLKIT, since="13.0", oldest="7.5", source=f"{_RELEASE_NOTES}, 13.0"),
)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A library of a lock, its version, and the oldest compute capability that it has code for."""

    library: str
    version: str
    oldest: str

    def __str__(self) -> str:
        return f"{self.library} {self.version} has no code for GPUs older than sm_{self.oldest.replace('.', '')}"


@dataclass(frozen=True, kw_only=True)
class Withdrawn:
    """Packages that their channel has withdrawn: versions from `since` on that are built for a CUDA major.

    They can be downloaded, and break on GPUs older than `harms_before`.
    """

    channel: str
    packages: tuple[str, ...]
    since: str
    cuda_major: int
    harms_before: str
    source: str


WITHDRAWN = (
    Withdrawn(
        channel="conda-forge",
        packages=("cudnn", "libcudnn", "libcudnn-dev", "libcudnn-jit", "libcudnn-jit-dev"),
        since="9.11",
        cuda_major=12,
        harms_before="7.5",
        source="conda-forge/admin-requests pull request 1742",
    ),
)


def limits_of(packages: Iterable[LockedPackage]) -> tuple[Limit, ...]:
    """Return the limits of a lock's libraries: the strictest of each library, the narrowest first."""
    strictest: dict[str, Limit] = {}
    for package in packages:
        for fact in FACTS:
            if package.name in fact.packages and _at_least(package.version, fact.since):
                limit = Limit(library=fact.library, version=package.version, oldest=fact.oldest)
                known = strictest.get(fact.library)
                if known is None or Version(known.oldest) < Version(limit.oldest):
                    strictest[fact.library] = limit
    return tuple(sorted(strictest.values(), key=lambda limit: Version(limit.oldest), reverse=True))


def oldest_gpu(limits: Iterable[Limit]) -> str | None:
    """Return the oldest compute capability that all libraries have code for; None if none sets a limit."""
    return max((limit.oldest for limit in limits), key=Version, default=None)


def withdrawn(package: LockedPackage, cuda_major: int | None) -> Withdrawn | None:
    """Return why a package of a lock for a CUDA major was withdrawn from its channel; None if it was not."""
    for entry in WITHDRAWN:
        if (
            package.name in entry.packages
            and entry.channel in package.url.split("/")
            and cuda_major == entry.cuda_major
            and _at_least(package.version, entry.since)
        ):
            return entry
    return None


def _at_least(version: str, since: str) -> bool:
    try:
        return Version(version) >= Version(since)
    except InvalidVersion:
        return False

"""Channel records → the combinations of torch, torchvision and torchaudio that may solve for a Python.

Records are read before solving, so that only combinations are solved whose packages all exist for the Python and the
accelerator.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from packaging.version import Version

from torchlocks.core.errors import ChannelUnreachableError, MissingFileError
from torchlocks.cuda.packages import built_for, minor
from torchlocks.lockfile.models import LockedPackage
from torchlocks.matrix.cells import Cell
from torchlocks.matrix.target import Target
from torchlocks.solve.repodata import RecordSource

if TYPE_CHECKING:
    from rattler import RepoDataRecord

WINDOW = 7
"""Number of the newest torch minors to solve for each row; older ones only if the matrix has them."""

OLDEST_PYTHON = Version("3.10")


@dataclass(frozen=True, kw_only=True)
class Build:
    """A pattern of torch's build string, and the GPU architectures of such builds."""

    pattern: str
    architectures: tuple[str, ...] = ()
    ptx: str | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A combination to solve. `release` is torch's full version; None solves for the newest patch."""

    python: str
    pytorch: str
    build: Build
    torchvision: str | None = None
    torchaudio: str | None = None
    release: str | None = None

    def __str__(self) -> str:
        return versions_text(self)

    @property
    def companions(self) -> frozenset[str]:
        """The names of torch's companions in the combination."""
        return frozenset(name for name in ("torchvision", "torchaudio") if getattr(self, name))

    def target(self, base: Target) -> Target:
        """Return `base`, which is of the same row and platform, with this combination."""
        return replace(
            base,
            python=self.python,
            pytorch=self.pytorch,
            release=self.release,
            build=self.build.pattern,
            torchvision=self.torchvision,
            torchaudio=self.torchaudio,
            torch_architectures=self.build.architectures,
            ptx=self.build.ptx,
        )


def versions_text(each: Cell | Choice) -> str:
    """Return the versions of a combination: `torch 2.10 + torchvision 0.26 (Python 3.12)`."""
    companions = {"torchvision": each.torchvision, "torchaudio": each.torchaudio}
    parts = [f"torch {each.release or each.pytorch}", *(f"{name} {v}" for name, v in companions.items() if v)]
    return f"{' + '.join(parts)} (Python {each.python})"


def is_pair(one: Cell | Choice, other: Cell | Choice) -> bool:
    """Whether two combinations have the same Python, torch and torchvision."""
    return (one.python, one.pytorch, one.torchvision) == (other.python, other.pytorch, other.torchvision)


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """A record: the Python and the torch that it requires (None: any), its minor version, and its build string."""

    python: str | None
    torch: str | None
    version: str
    build: str


@dataclass(frozen=True, kw_only=True)
class Offers:
    """Records in the channels of a row on a platform, for the row's accelerator, and the CUDA versions there."""

    torch: tuple[_Offer, ...]
    torchvision: tuple[_Offer, ...]
    torchaudio: tuple[_Offer, ...]
    cuda_versions: tuple[str, ...]

    def pythons(self) -> tuple[str, ...]:
        """Return the Pythons that have a torch, oldest first."""
        found = {offer.python for offer in self.torch if offer.python}
        return tuple(sorted((each for each in found if Version(each) >= OLDEST_PYTHON), key=Version))

    def minors(self, builds: Sequence[Build], python: str | None = None) -> list[str]:
        """Return the torch minors with a build of `builds`, newest first; `python` limits them to one Python."""
        found = {
            offer.version
            for offer in self.torch
            if (python is None or offer.python in (None, python)) and _of(offer, builds)
        }
        return sorted(found, key=Version, reverse=True)

    def choices(self, python: str, pytorch: str, builds: Sequence[Build]) -> list[Choice]:
        """Return the combinations for a Python and a torch: complete ones first, then newer ones, as in `builds`."""
        visions = self._companions(self.torchvision, python, pytorch)
        audios = self._companions(self.torchaudio, python, pytorch)
        available = [
            build
            for build in builds
            if any(
                offer.version == pytorch and offer.python in (None, python) and _of(offer, [build])
                for offer in self.torch
            )
        ]
        order = [(v, a) for v in visions for a in audios] + [(v, None) for v in visions] + [(None, None)]
        return [
            Choice(python=python, pytorch=pytorch, build=build, torchvision=vision, torchaudio=audio)
            for vision, audio in order
            for build in available
        ]

    def missing(self, choice: Choice, accelerator: str) -> str | None:
        """Return what the channels lack for a combination, as text; None if nothing is missing."""
        of_torch = [each for each in self.torch if each.version == choice.pytorch]
        if not any(each.python in (None, choice.python) for each in of_torch):
            return f"no {accelerator} build of torch {choice.pytorch} for Python {choice.python}"
        for name in sorted(choice.companions):
            version = getattr(choice, name)
            if version not in self._companions(getattr(self, name), choice.python, choice.pytorch):
                return (
                    f"no {accelerator} build of {name} {version} for torch {choice.pytorch} and Python {choice.python}"
                )
        return None

    @staticmethod
    def _companions(offers: Iterable[_Offer], python: str, pytorch: str) -> list[str]:
        found = {each.version for each in offers if each.torch == pytorch and each.python in (None, python)}
        return sorted(found, key=Version, reverse=True)


def offers(source: RecordSource, target: Target) -> Offers:
    """Return the records for the accelerator of `target` on its platform.

    Raises ChannelUnreachableError for a live channel that cannot be read.
    """
    cuda_major = int(target.cuda.split(".")[0]) if target.cuda else None
    found: dict[str, tuple[_Offer, ...]] = {}
    for name in ("pytorch", "torchvision", "torchaudio"):
        matching = []
        for record in _records(source, target, name):
            variant = built_for(_locked(record))
            if variant is None or variant.accelerator != target.accelerator:
                continue
            if cuda_major is not None and variant.major not in (None, cuda_major):
                continue
            matching.append(_offer(record))
        found[name] = tuple(matching)
    cuda = {minor(str(record.version)) for record in _records(source, target, "cuda-version")}
    return Offers(
        torch=found["pytorch"],
        torchvision=found["torchvision"],
        torchaudio=found["torchaudio"],
        cuda_versions=tuple(sorted(cuda, key=Version)),
    )


def _of(offer: _Offer, builds: Sequence[Build]) -> bool:
    return any(fnmatchcase(offer.build, build.pattern) for build in builds)


def _records(source: RecordSource, target: Target, name: str) -> list[RepoDataRecord]:
    """Return the records of a package from the first channel that has it: channel priority is strict."""
    from rattler import PackageName

    for channel in target.channels:
        try:
            opened = source.sparse(channel, (target.platform, "noarch"))
        except (MissingFileError, ChannelUnreachableError):
            if channel == target.channels[0]:
                raise
            continue
        records = [record for repodata in opened for record in repodata.load_records(PackageName(name))]
        if records:
            cutoff = source.cutoff
            return [each for each in records if not (cutoff and each.timestamp and each.timestamp > cutoff)]
    return []


def _offer(record: RepoDataRecord) -> _Offer:
    return _Offer(
        python=_bound(record, ("python_abi", "python")),
        torch=_bound(record, ("pytorch", "libtorch")),
        version=minor(str(record.version)),
        build=str(record.build),
    )


def _bound(record: RepoDataRecord, names: Sequence[str]) -> str | None:
    """Return the first major.minor in the dependency on one of `names`: 3.12 of `python >=3.12,<3.13.0a0`."""
    for name in names:
        for spec in record.depends:
            package, _, bounds = spec.partition(" ")
            if package == name and (match := re.search(r"\d+\.\d+", bounds)):
                return match[0]
    return None


def _locked(record: RepoDataRecord) -> LockedPackage:
    return LockedPackage(
        name=record.name.normalized,
        version=str(record.version),
        build=str(record.build),
        subdir=record.subdir,
        url=record.url,
        depends=tuple(record.depends),
    )

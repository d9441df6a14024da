"""The environments to pick from, out of their explicit files.

An explicit file has the names and versions of one platform, which is all that a choice needs, and is read in a fiftieth
of the time of a conda-lock.yml: a catalogue can have a thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torchlocks.core.errors import LockfileError
from torchlocks.core.layout import Layout
from torchlocks.cuda.libraries import limits_of
from torchlocks.cuda.packages import torch_package
from torchlocks.host.compatibility import needs_of
from torchlocks.lockfile.formats import CONDA_LOCK, explicit_name, read_lock
from torchlocks.lockfile.models import LockedPackage
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target
from torchlocks.site.pick import Candidate


def candidates_of_locks(layout: Layout, matrix: Matrix, targets: Iterable[Target]) -> Iterator[Candidate]:
    """Yield the candidates of `targets` that are locked. Raises LockfileError for a lock that is not valid."""
    for target in targets:
        packages = _packages(layout, target)
        if not packages:
            continue
        versions = {package.name: package.version for package in packages}
        torch = torch_package(packages)
        if torch is None or "python" not in versions:
            raise LockfileError(
                f"The lock has no {'python' if torch else 'pytorch'} for {target.platform}.",
                where=str(layout.locks / target.env),
                fix="make it again with `make lock`",
            )
        yield Candidate(
            env=target.env,
            row=matrix.row_of(target.env),
            platform=target.platform,
            torch=torch.version,
            python=versions["python"],
            torchvision=versions.get("torchvision"),
            torchaudio=versions.get("torchaudio"),
            needs=needs_of(matrix, target, limits_of(packages)),
        )


def _packages(layout: Layout, target: Target) -> tuple[LockedPackage, ...]:
    """Return the packages of a target; of the conda-lock.yml without an explicit file, none without either."""
    folder = layout.locks / target.env
    if not (folder / CONDA_LOCK).is_file():
        return ()
    explicit = folder / explicit_name(target.platform)
    return read_lock(explicit if explicit.is_file() else folder / CONDA_LOCK).packages.get(target.platform, ())

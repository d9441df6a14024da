"""Collect matrix, locks and reports into a catalogue, for the site and `index.json`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from torchlocks import __version__
from torchlocks.core.errors import LockfileError, TorchlocksError
from torchlocks.core.files import hash_file
from torchlocks.core.layout import Layout
from torchlocks.core.reading import LOCK_BYTES, RECORD_BYTES, load_json, read_bytes
from torchlocks.cuda.libraries import limits_of
from torchlocks.cuda.packages import torch_package
from torchlocks.diff.compare import Facts, facts
from torchlocks.diff.read import Side, row_of
from torchlocks.evidence.model import Evidence
from torchlocks.evidence.store import records
from torchlocks.evidence.summary import Proofs, proofs_of
from torchlocks.export.clients import CLIENTS
from torchlocks.host.compatibility import needs_of
from torchlocks.install.provenance import read_provenance, record_names
from torchlocks.lockfile.fields import secret_line
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, explicit_name
from torchlocks.lockfile.models import Lock, LockedPackage
from torchlocks.lockfile.open import open_lock
from torchlocks.matrix.cells import Drivers
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target
from torchlocks.site.index import (
    Index,
    IndexClient,
    IndexCuda,
    IndexDrivers,
    IndexEnvironment,
    IndexFile,
    IndexLibrary,
    IndexPlatform,
    IndexVerification,
)
from torchlocks.site.proof import index_evidence, proven, strongest
from torchlocks.verify.verdict import Verdict, read_verdict


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One environment on one platform.

    `installed` maps package names to bytes on disk, if an environment of this row is installed here;
    `installed_from_lock` is whether that was installed from this lock and not from the local channel.
    """

    target: Target
    lock: Lock
    packages: tuple[LockedPackage, ...]
    facts: Facts
    entry: IndexPlatform
    verdict: Verdict | None
    proofs: Proofs
    installed: dict[str, int] | None
    installed_from_lock: bool

    @property
    def name(self) -> str:
        return f"{self.target.env} on {self.target.platform}"


@dataclass(frozen=True, kw_only=True)
class LocalRow:
    """A CUDA environment of the local channel, which has no committed lock; `verdict` is that of a build here."""

    target: Target
    verdict: Verdict | None


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All environments, in the order of the matrix."""

    matrix: Matrix
    index: Index
    cells: tuple[Cell, ...]
    local: tuple[LocalRow, ...]


def read_catalogue(
    layout: Layout,
    *,
    revision: str | None = None,
    matrix: Matrix | None = None,
    targets: Iterable[Target] | None = None,
    here: bool = True,
) -> Catalogue:
    """Read the matrix, if it is not given, and every lock and report of `targets`: all of the matrix by default.

    Without `here`, environments that are installed on this machine and rows of its local channel are left out, which
    are not part of the index.
    Raises MatrixError and LockfileError if they are not valid. A row without a lock is listed in `not_locked`; an
    unreadable report counts as none, with a text that reports it.
    """
    matrix = matrix or load_matrix(layout.matrix)
    chosen: dict[str, list[Target]] = {}
    for target in matrix.targets() if targets is None else targets:
        chosen.setdefault(target.env, []).append(target)
    evidence: dict[str, list[Evidence]] = {}
    for record in records(layout):
        evidence.setdefault(record.cell, []).append(record)
    cells: list[Cell] = []
    missing: list[str] = []
    for name, mine in chosen.items():
        if not (layout.locks / name / CONDA_LOCK).is_file():
            missing += [f"{name}/{target.platform}" for target in mine]
            continue
        lock = open_lock(str(layout.locks / name / CONDA_LOCK))
        report = layout.reports / f"{name}.json"
        verdict = read_verdict(report)
        unreadable = verdict is None and report.is_file()
        for target in mine:
            if target.platform in lock.packages:
                found = evidence.get(f"{name}/{target.platform}", [])
                proofs = proofs_of(found, lock.sha256, lock.packages[target.platform])
                installed = _installed(layout, target, lock) if here else (None, False)
                cells.append(_cell(layout, matrix, target, lock, verdict, proofs, unreadable, installed))
            else:
                missing.append(f"{name}/{target.platform}")
    index = Index(
        torchlocks=__version__,
        revision=revision,
        clients=tuple(IndexClient(name=c.name, file=c.file, line=c.line, remote=c.remote) for c in CLIENTS.values()),
        environments=tuple(
            IndexEnvironment(
                name=name,
                variant_of=None if name in matrix.rows else matrix.row_of(name),
                accelerator=row.accelerator,
                channels=row.channels,
                platforms=_entries(cells, name),
            )
            for name, row in matrix.environments.items()
            if _entries(cells, name)
        ),
        not_locked=tuple(missing),
        left_out=dict(matrix.left_out),
    )
    local = tuple(_local_rows(layout, matrix)) if here else ()
    return Catalogue(matrix=matrix, index=index, cells=tuple(cells), local=local)


def refuse_secrets(layout: Layout, catalogue: Catalogue) -> None:
    """Raise LockfileError for credentials in a URL: the site publishes channels and locks as they are."""
    folders = sorted({layout.locks / cell.target.env for cell in catalogue.cells})
    for path in [layout.matrix, *(path for folder in folders for path in sorted(folder.iterdir()) if path.is_file())]:
        if line := secret_line(read_bytes(path, LOCK_BYTES).decode("utf-8", "replace")):
            raise LockfileError(
                "A URL contains a user name, a password or a token, and the site would publish it.",
                where=f"{path}, line {line}",
                fix="revoke the secret; name environment variables in the channel's URL instead (user:$PASSWORD@host).",
            )


def _local_rows(layout: Layout, matrix: Matrix) -> Iterator[LocalRow]:
    for platform in matrix.platforms:
        for target in matrix.local_targets(platform):
            verdict = read_verdict(layout.reports / f"{target.env}.json")
            built = verdict is not None and verdict.platform == platform and _is_local(verdict)
            yield LocalRow(target=target, verdict=verdict if built else None)


def _entries(cells: list[Cell], env: str) -> tuple[IndexPlatform, ...]:
    return tuple(cell.entry for cell in cells if cell.target.env == env)


def _cell(
    layout: Layout,
    matrix: Matrix,
    target: Target,
    lock: Lock,
    verdict: Verdict | None,
    proofs: Proofs,
    unreadable: bool,
    installed: tuple[dict[str, int] | None, bool],
) -> Cell:
    packages = tuple(sorted(lock.packages[target.platform], key=lambda package: package.name))
    side = Side(name=target.env, packages={target.platform: packages}, rows={target.platform: row_of(target)})
    known = facts(side, target.platform)
    torch = torch_package(packages)
    if torch is None or known.python is None:
        raise LockfileError(
            f"The lock has no {'python' if torch else 'pytorch'} for {target.platform}.",
            where=str(lock.path),
            fix="make it again with `make lock`",
        )
    mine = verdict if verdict and verdict.platform == target.platform else None
    versions = {package.name: package.version for package in packages}
    entry = IndexPlatform(
        platform=target.platform,
        page=f"env/{target.env}/{target.platform}.html",
        torch=torch.version,
        torchvision=versions.get("torchvision"),
        torchaudio=versions.get("torchaudio"),
        lacks=target.lacks,
        torch_build=torch.build,
        python=known.python,
        glibc=target.glibc,
        osx=target.virtual_packages.get("__osx"),
        virtual_packages=dict(target.virtual_packages),
        cuda=_cuda(matrix, target, packages),
        packages=known.packages,
        download_bytes=known.download,
        files=tuple(_files(layout, target)),
        verification=strongest(_verification(target, lock, mine, unreadable), proven(proofs)),
        evidence=tuple(map(index_evidence, proofs.proofs)),
        not_covered=proofs.not_covered(cuda=target.cuda is not None),
    )
    return Cell(
        target=target,
        lock=lock,
        packages=packages,
        facts=known,
        entry=entry,
        verdict=mine,
        proofs=proofs,
        installed=installed[0],
        installed_from_lock=installed[1],
    )


def _cuda(matrix: Matrix, target: Target, packages: tuple[LockedPackage, ...]) -> IndexCuda | None:
    needs = needs_of(matrix, target, limits_of(packages)).cuda
    if needs is None:
        return None

    def drivers(each: Drivers) -> IndexDrivers:
        return IndexDrivers.model_validate(asdict(each))

    return IndexCuda(
        version=needs.version,
        virtual=target.virtual_packages["__cuda"],
        toolkit=needs.toolkit,
        drivers=drivers(needs.drivers),
        toolkit_drivers=drivers(needs.toolkit_drivers) if needs.toolkit_drivers else None,
        architectures=needs.architectures,
        ptx=needs.ptx,
        libraries=tuple(IndexLibrary.model_validate(asdict(limit)) for limit in needs.libraries),
    )


def _files(layout: Layout, target: Target) -> list[IndexFile]:
    names = {"explicit": explicit_name(target.platform), "conda-lock": CONDA_LOCK, "pixi": PIXI}
    found = []
    for form, name in names.items():
        path = layout.locks / target.env / name
        if path.is_file():
            fields = {
                "format": form,
                "path": f"locks/{target.env}/{name}",
                "sha256": hash_file(path),
                "bytes": path.stat().st_size,
            }
            found.append(IndexFile.model_validate(fields))
    return found


def _verification(target: Target, lock: Lock, verdict: Verdict | None, unreadable: bool) -> IndexVerification:
    """Return the state of verification of this lock; a report counts only if it is about exactly these bytes."""
    if verdict is None:
        text = f"reports/{target.env}.json cannot be read" if unreadable else "there is no report on this lock"
        return IndexVerification(state="none", text=text, report=None, date=None)
    date = verdict.started_at.isoformat(timespec="seconds")
    report = f"reports/{target.env}.html"
    if verdict.lock_sha256 == lock.sha256:
        state = {
            "failed": "failed",
            "nothing": "failed",
            "partial": "partial",
            "cpu": "verified",
            "gpu": "verified",
            "cuda-build": "build-verified",
        }[verdict.state]
        text = verdict.headline
    elif _is_local(verdict):
        state = "local" if verdict.ok else "local-failed"
        text = (
            f"this lock is not verified here; a build of the local channel, out of PyPI wheels, was: {verdict.headline}"
        )
    else:
        state, text = "outdated", f"another state of this lock was verified: {verdict.headline}"
    return IndexVerification.model_validate({"state": state, "text": text, "report": report, "date": date})


def _is_local(verdict: Verdict) -> bool:
    """Return whether the environment was installed from the local channel."""
    return bool(verdict.channels) and all(channel.startswith("file:") for channel in verdict.channels)


def _installed(layout: Layout, target: Target, lock: Lock) -> tuple[dict[str, int] | None, bool]:
    """Return bytes on disk by package, None if not installed, and whether the environment is from this lock."""
    prefix = layout.prefix(target.env)
    found = read_provenance(prefix)
    if found is None or found.platform != target.platform:
        return None, False
    try:
        sizes = installed_sizes(prefix)
    except TorchlocksError:
        return None, False
    return sizes, found.lock_sha256 == lock.sha256


def installed_sizes(prefix: Path) -> dict[str, int]:
    """Return the bytes on disk of each package in a prefix, by conda's records (`conda-meta/*.json`, `paths_data`).

    Raises LockfileError for a record that cannot be read.
    """
    sizes = {}
    for name in record_names(prefix):
        path = prefix / "conda-meta" / f"{name}.json"
        try:
            record = load_json(read_bytes(path, RECORD_BYTES))
            sizes[record["name"]] = sum(each.get("size_in_bytes") or 0 for each in record["paths_data"]["paths"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LockfileError(
                f"The record of an installed package cannot be read: {error}", where=str(path)
            ) from None
    return sizes

"""The tar file of a bundle: the same bytes for the same contents."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path
from typing import IO, Protocol

from torchlocks.core.errors import IntegrityError
from torchlocks.core.files import EARLIEST_TIME_S
from torchlocks.core.progress import Progress, Task

SUMS = "SHA256SUMS"
"""The file of a bundle with the hashes of all others."""


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


class _Hashing:
    """A file that hashes the bytes that are read or written."""

    def __init__(self, file: IO[bytes], digest: _Digest, task: Task | None = None) -> None:
        self._file = file
        self._digest = digest
        self._task = task

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._digest.update(block)
        if self._task is not None:
            self._task.advance(len(block))
        return block

    def write(self, block: bytes) -> int:
        self._digest.update(block)
        return self._file.write(block)


def write_tar(folder: Path, top: str, target: Path, known: dict[str, str], progress: Progress) -> str:
    """Write the bundle and return its hash. Raises IntegrityError if a file does not have its `known` hash."""
    paths = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.as_posix())
    total = sum(path.stat().st_size for path in paths)
    whole = hashlib.sha256()
    sums = []
    with (
        progress.task("Writing the bundle", total, unit="bytes") as task,
        target.open("wb") as file,
        tarfile.open(fileobj=_Hashing(file, whole), mode="w|", format=tarfile.GNU_FORMAT) as archive,  # type: ignore[call-overload]
    ):
        for path in paths:
            name = path.relative_to(folder).as_posix()
            digest = hashlib.sha256()
            with path.open("rb") as source:
                member = _member(f"{top}/{name}", os.fstat(source.fileno()).st_size)
                archive.addfile(member, _Hashing(source, digest, task))
            if known.get(name, digest.hexdigest()) != digest.hexdigest():
                raise IntegrityError(f"{path.name} was changed while it was read.", where=str(path), fix="run it again")
            sums.append(f"{digest.hexdigest()}  {name}\n")
            if name in known:
                path.unlink()
        text = folder / SUMS
        text.write_text("".join(sums), encoding="utf-8")
        with text.open("rb") as source:
            archive.addfile(_member(f"{top}/{SUMS}", text.stat().st_size), source)
    return whole.hexdigest()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mtime = EARLIEST_TIME_S
    member.mode = 0o755 if name.endswith("/install.py") else 0o644
    return member

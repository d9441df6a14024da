"""Disk space: enough of it before the work begins, and a full disk as one error, however it is reported."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torchlocks.core.errors import DiskFullError, TorchlocksError


def is_disk_full(error: BaseException) -> bool:
    """Return whether `error`, or one of its causes, reports a full disk or an exceeded quota."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # py-rattler passes the system's errors on as text.
        if reports_disk_full(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def reports_disk_full(text: str) -> bool:
    """Return whether the output of another program reports a full disk or an exceeded quota.

    28 and 122 are ENOSPC and EDQUOT on Linux; Rust writes `os error 28`, Python `[Errno 28]`.
    """
    return re.search(r"No space left on device|(os error|Errno) (28|122)\b", text) is not None


@contextmanager
def disk_full_as_error(
    where: Path,
    what: str = "nothing that was there has been changed",
    fix: str = "make room and run it again; what was fetched so far is kept.",
) -> Iterator[None]:
    """Convert a full disk, however it is reported, to DiskFullError.

    `where` is a folder on that disk, `what` completes the message "The disk is full: …", `fix` is the advice.
    Errors of torchlocks pass unchanged.
    """
    try:
        yield
    except TorchlocksError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(where, what, fix) from error
        raise


@contextmanager
def written_to(output: Path, error: type[TorchlocksError], what: str, fix: str) -> Iterator[None]:
    """Make the folder of `output`, and turn errors of the system while it is written into `error` or DiskFullError.

    `what` is the thing in words, "The bundle".
    """
    with disk_full_as_error(output.parent):
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as failure:
            if is_disk_full(failure):
                raise
            raise error(
                f"{what} cannot be written: {failure.strerror or failure}.",
                where=str(failure.filename or output),
                fix=fix,
            ) from failure


@contextmanager
def scratch_beside(output: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `output`, on the same disk, and remove it afterwards."""
    # Importing these takes as long as all else that asks for no more than `is_disk_full`.
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def disk_full(where: Path, what: str, fix: str) -> DiskFullError:
    """Return the error of a full disk; the arguments are those of `disk_full_as_error`."""
    return DiskFullError(f"The disk is full: {what}.", where=str(where), fix=fix)


def free_bytes(folder: Path) -> int:
    """Return the bytes that are free on the disk of `folder`, which need not exist yet."""
    import shutil

    return shutil.disk_usage(_existing(folder)).free


def require_space(folder: Path, needed: int, what: str, fix: str) -> None:
    """Raise DiskFullError when `needed` bytes are not free on the disk of `folder`.

    `what` is the subject of the message ("The bundle needs 10 MB; 5 MB are free."), `fix` is the advice.
    """
    free = free_bytes(folder)
    if needed > free:
        raise DiskFullError(f"{what} {needed / 1e6:.0f} MB; {free / 1e6:.0f} MB are free.", where=str(folder), fix=fix)


def require_space_on_disks(needed: Mapping[Path, tuple[str, int]]) -> None:
    """Raise DiskFullError when a disk has less space than all that is going to be written to it.

    `needed` maps a folder, which need not exist yet, to what is written there and its size in bytes.
    """
    disks: dict[int, list[tuple[Path, str, int]]] = {}
    for folder, (what, size) in needed.items():
        disks.setdefault(disk_of(folder), []).append((_existing(folder), what, size))
    for uses in disks.values():
        place = uses[0][0]
        total, free = sum(size for _, _, size in uses), free_bytes(place)
        if total > free:
            parts = ", ".join(f"{what} {size / 1e9:.1f} GB" for _, what, size in uses)
            raise DiskFullError(
                f"The disk is too small: {total / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free "
                "(nothing was downloaded).",
                where=f"{place}: {parts}",
                fix="free some space and run the command again"
                "\nor move the package cache to another disk (TORCHLOCKS_CACHE), or what is made (TORCHLOCKS_HOME)",
            )


def disk_of(folder: Path) -> int:
    """Return the device number of the file system of `folder`, which need not exist yet."""
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())

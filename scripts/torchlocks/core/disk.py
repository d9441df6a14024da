"""Full disks, however they are reported."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchlocks.core.errors import DiskFullError, TorchlocksError
from torchlocks.core.files import says_disk_full


def is_disk_full(error: BaseException) -> bool:
    """True when `error`, or one behind it, says that the disk (or the quota) is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # py-rattler hands the system's errors on as text.
        if says_disk_full(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def disk_full_as_error(where: Path) -> Iterator[None]:
    """Turn a full disk, however it is reported, into DiskFullError; `where` is a folder on it."""
    try:
        yield
    except TorchlocksError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise DiskFullError(
                "The disk is full; nothing that was there has been changed.",
                where=str(where),
                fix="make room and run it again; what was fetched so far is kept.",
            ) from error
        raise

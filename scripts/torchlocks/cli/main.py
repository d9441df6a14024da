"""The command line: errors and exit codes. The verbs are in `verbs` and `commands`.

Only cheap imports here: what `quick` handles ends before click is imported.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from torchlocks.core.errors import TorchlocksError

INTERNAL_ERROR = 70
"""Exit code of a bug in torchlocks itself (EX_SOFTWARE of sysexits.h)."""


def main() -> NoReturn:
    """Run the `torchlocks` command: print errors, and exit with their exit code."""
    from torchlocks.cli.quick import quick_status
    from torchlocks.core.process_exit import exit_process

    _print_anywhere()
    # Most of what a command makes it keeps until it ends: looking for garbage often took a tenth of its time.
    gc.set_threshold(50_000)
    status = quick_status(sys.argv[1:])
    exit_process(_run() if status is None else status)


def _print_anywhere() -> None:
    """Escape characters that the terminal's encoding lacks (`→` on some Windows), as standard error does."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and not sys.stdout.encoding.lower().startswith("utf"):
        reconfigure(errors="backslashreplace")


def _run() -> int:
    import click

    from torchlocks.cli.commands.root import root
    from torchlocks.cli.console import print_error
    from torchlocks.cli.verbs import VERBS
    from torchlocks.core.errors import InterruptedByUserError, TorchlocksError
    from torchlocks.core.layout import note_the_caller

    note_the_caller()
    try:
        root(VERBS).main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print_error(InterruptedByUserError("Interrupted. Nothing incomplete was installed; run it again to continue."))
        return InterruptedByUserError.exit_code
    except TorchlocksError as error:
        print_error(error)
        return error.exit_code
    except BrokenPipeError:
        return 1
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if os.environ.get("TORCHLOCKS_DEBUG"):
            import traceback

            traceback.print_exc()
        if (refused := _refused(error)) is not None:
            print_error(refused)
            return refused.exit_code
        print(
            f"error: torchlocks itself failed: {type(error).__name__}: {error}\n"
            "  fix:   this is a bug; run again with TORCHLOCKS_DEBUG=1 and report what it prints",
            file=sys.stderr,
        )
        return INTERNAL_ERROR
    return 0


def _refused(error: Exception) -> TorchlocksError | None:
    """Return an error for a full disk or missing permissions, which are not bugs; None for all else."""
    import errno

    from torchlocks.core.disk import is_disk_full
    from torchlocks.core.errors import DiskFullError, MissingFileError, TorchlocksError

    if not isinstance(error, OSError):
        return None
    where = str(error.filename2 or error.filename or "") or None
    if is_disk_full(error):
        return DiskFullError("The disk, or your quota of it, is full.", where=where, fix="make room, and run it again")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.EFBIG):
        return MissingFileError(
            f"The path cannot be used: {error.strerror}.", where=where and where[:500], fix="name another one"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return TorchlocksError(
            f"The system does not allow this: {error.strerror}.",
            where=where,
            fix="make it readable, or writable, to you",
        )
    return None


if __name__ == "__main__":
    main()

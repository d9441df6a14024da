"""Run one installation in a process of its own, as a test says; prints what it did as JSON.

Arguments: a pickle of (lock, prefix, InstallOptions), and at which change to the file system to die (0: never).
Python reports each rename, deletion, new folder and file opened for writing to an audit hook; counting them kills
the process at an exact place, again and again.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from pathlib import Path

from tiny_channel import PLATFORM
from torchlocks.core.errors import TorchlocksError
from torchlocks.core.progress import Silent
from torchlocks.install.installer import install_environment
from torchlocks.install.provenance import Origin

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "ctypes.dlsym"}


class Listening(Silent):
    """A progress that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.said.append(message)


def die_at(number: int, prefix: Path) -> None:
    seen = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        # Deleting a tree reports each of its files, with the descriptor of their folder; one more or less says nothing.
        in_a_tree = event in ("os.remove", "os.rmdir") and args[-1] != -1
        if (event in _CHANGES and not in_a_tree) or writes:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main() -> int:
    lock, prefix, options = pickle.loads(Path(sys.argv[1]).read_bytes())
    progress = Listening()
    # Everything is imported before, so that a kill hits the work and not the start.
    import asyncio  # noqa: F401

    import filelock  # noqa: F401
    import rattler  # noqa: F401

    import torchlocks.install.fetch  # noqa: F401

    print("ready", flush=True)
    die_at(int(sys.argv[2]), prefix)
    try:
        result = install_environment(
            lock, PLATFORM, prefix, provenance=Origin(name="tiny", channel="local"), options=options, progress=progress
        )
    except TorchlocksError as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error), "said": progress.said}))
        return error.exit_code
    print(json.dumps({"changed": result.changed, "said": progress.said}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Imports of torch in processes of their own, so that one that crashes or hangs is a result and not the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torchsuite import probe

TIMEOUT_SECONDS = 120.0
ORDERS = ("torch", "numpy")


@dataclass(frozen=True)
class Imported:
    """What one process saw. `failure` is None when the import worked; `seen` is empty when it did not."""

    failure: str | None
    stderr: str
    seen: dict[str, Any] = field(default_factory=dict)


class Imports:
    """Imports torch in a process of its own, once in each order and on first use; one worker does it for all of a run.

    `work` is a folder that the workers share.
    """

    def __init__(self, work: Path) -> None:
        self._work = work
        self._done: dict[str, Imported] = {}

    def get(self, first: str) -> Imported:
        """The import that began with the package `first` (torch or numpy)."""
        if first not in self._done:
            self._done[first] = self._of_another(first) or self._try(first)
        return self._done[first]

    def _of_another(self, first: str) -> Imported | None:
        """What another worker saw, as soon as it is there; None where this one has to try."""
        file = self._work / f"import-{first}-first.json"
        claim = file.with_suffix(".claim")
        if not file.is_file():
            try:
                with claim.open("x", encoding="utf-8") as made:
                    made.write(str(os.getpid()))
                return None
            except FileExistsError:
                deadline = time.monotonic() + 2 * TIMEOUT_SECONDS
                while not file.is_file():
                    if time.monotonic() >= deadline or not _runs(claim.read_text(encoding="utf-8")):
                        return None
                    time.sleep(0.05)
        return Imported(**json.loads(file.read_text(encoding="utf-8")))

    def _try(self, first: str) -> Imported:
        seen = self._work / f"seen-{first}-first.{os.getpid()}.json"
        command = [sys.executable, "-I", os.fspath(probe.__file__), first, os.fspath(seen)]
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            output = late.stderr.decode(errors="replace") if isinstance(late.stderr, bytes) else late.stderr or ""
            imported = Imported(f"the import did not finish within {TIMEOUT_SECONDS:.0f} s", output)
        else:
            imported = (
                Imported(None, done.stderr, json.loads(seen.read_text(encoding="utf-8")))
                if done.returncode == 0
                else Imported(ending(done.returncode), done.stderr)
            )
        whole = self._work / f"import-{first}-first.{os.getpid()}"
        whole.write_text(json.dumps(asdict(imported)), encoding="utf-8")
        whole.replace(self._work / f"import-{first}-first.json")
        return imported


def numpy_complaint(stderr: str) -> str | None:
    """The warning about a torch that was built for another numpy, on one line; None without one."""
    words = " ".join(stderr.split())
    patterns = (r"A module that was compiled using NumPy \S+ cannot be run in NumPy .*? as it may crash", _ARRAY_API)
    return next((found[0] for pattern in patterns if (found := re.search(pattern, words))), None)


_ARRAY_API = r"(Failed to initialize NumPy: )?\S*_ARRAY_API not found"


def ending(returncode: int) -> str:
    """How a process ended, in words; negative codes are POSIX signals."""
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"ended with exit code {returncode}"


def _runs(process: str) -> bool:
    """Whether a process of this user is alive; taken for granted where it cannot be asked without harm (Windows)."""
    if sys.platform == "win32" or not process.isdecimal():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    return True

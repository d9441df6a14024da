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

#: The file in which the first process leaves the results for the others.
SHARED = "imports.json"


@dataclass(frozen=True)
class Imported:
    """What one process saw. `failure` is None when the import worked; `seen` is empty when it did not."""

    failure: str | None
    stderr: str
    seen: dict[str, Any] = field(default_factory=dict)


class Imports:
    """Runs both orders at the same time, on first use; the first process that asks does it for all of a run.

    `work` is a folder that the processes share.
    """

    def __init__(self, work: Path) -> None:
        self._work = work
        self._done: dict[str, Imported] = {}

    def get(self, first: str) -> Imported:
        """The import that began with the package `first` (torch or numpy)."""
        if not self._done and (shared := self._shared()):
            self._done = shared
        if not self._done:
            running = {order: self._start(order) for order in ORDERS}
            self._done = {order: self._finish(order, process) for order, process in running.items()}
            self._share()
        return self._done[first]

    def _shared(self) -> dict[str, Imported] | None:
        """What another process saw, as soon as it is there; None where this one has to look."""
        claim, file = self._work / f"{SHARED}.claim", self._work / SHARED
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
        return {order: Imported(**seen) for order, seen in json.loads(file.read_text(encoding="utf-8")).items()}

    def _share(self) -> None:
        whole = self._work / f"{SHARED}.{os.getpid()}"
        whole.write_text(json.dumps({order: asdict(seen) for order, seen in self._done.items()}), encoding="utf-8")
        whole.replace(self._work / SHARED)

    def _start(self, order: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", os.fspath(probe.__file__), order, os.fspath(self._out(order))]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def _finish(self, order: str, process: subprocess.Popen[str]) -> Imported:
        try:
            _, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _, stderr = process.communicate()
            return Imported(f"the import did not finish within {TIMEOUT_SECONDS:.0f} s", stderr)
        if process.returncode != 0:
            return Imported(ending(process.returncode), stderr)
        return Imported(None, stderr, json.loads(self._out(order).read_text(encoding="utf-8")))

    def _out(self, order: str) -> Path:
        return self._work / f"import-{order}-first.json"


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

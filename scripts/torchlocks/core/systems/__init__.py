"""What differs between Linux, macOS and Windows, in one module for each, with the same names.

`here` is this machine's system; `of` that of a platform, for what is made for another machine. Functions that call the
system import what they need when they are called, so that all other functions work on any system.
"""

from __future__ import annotations

import sys

from torchlocks.core.systems import linux, macos, windows
from torchlocks.core.systems.model import System

_BY_NAME: dict[str, System] = {"linux": linux, "osx": macos, "win": windows}


def of(platform: str) -> System:
    """Return the system of a platform such as `win-64`; Linux for those that are not known."""
    return _BY_NAME.get(platform.partition("-")[0], linux)


here: System = windows if sys.platform == "win32" else macos if sys.platform == "darwin" else linux
"""The system that this runs on."""

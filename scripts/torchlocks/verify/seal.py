"""The suite's process environment: variables of the activated environment and of the system."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from torchlocks.core.systems import here
from torchlocks.install.activate import activation_environment

#: Variables that the suite inherits. All others (PYTHONPATH, LD_LIBRARY_PATH, LD_PRELOAD, DYLD_*,
#: PYTEST_*, OMP_NUM_THREADS, another environment's variables) would change what is tested.
_KEPT = frozenset(
    {
        "COMSPEC", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "LANG", "NUMBER_OF_PROCESSORS",
        "NVIDIA_VISIBLE_DEVICES", "PATHEXT",
        "PROCESSOR_ARCHITECTURE", "SYSTEMDRIVE", "SYSTEMROOT", "TEMP", "TERM", "TMP", "TMPDIR", "TZ", "WINDIR",
    }
)  # fmt: skip

#: Prefixes of further variables: the locale, the other nodes, and the network interfaces to them.
_KEPT_PREFIXES = ("LC_", "TORCH_VERIFY_", "NCCL_", "GLOO_")

#: The files of an NVIDIA driver on Linux and on WSL, as shell patterns.
_DRIVER_FILES = ("libcuda.so*", "libcudadebugger.so*", "libnvidia-*.so*", "libdxcore.so*", "libd3d12*.so*")


def sealed_environment(prefix: Path, outside: Mapping[str, str], work: Path) -> dict[str, str]:
    """Return the variables that the suite runs with: the activated environment's and the system's.

    The home folder is an empty one below `work`, so that no site-packages, caches or configuration of the user are
    used. A driver that is found only through LD_LIBRARY_PATH (clusters, NixOS, some containers) is linked into a folder
    of its own, without the rest of that path, which may contain a CUDA toolkit.
    """
    kept = {
        name: value
        for name, value in outside.items()
        if name.upper() in _KEPT or name.upper().startswith(_KEPT_PREFIXES)
    }
    home = work / "home"
    home.mkdir(exist_ok=True)
    kept |= here.bare(outside, home)
    if driver := _driver_folder(outside.get("LD_LIBRARY_PATH", ""), work):
        kept["LD_LIBRARY_PATH"] = os.fspath(driver)
    # The suite uses -I for itself and its processes; these are for programs that start Python without it.
    kept |= {"PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}
    return activation_environment(prefix, kept)


def _driver_folder(search_path: str, work: Path) -> Path | None:
    """Return a folder below `work` with links to an NVIDIA driver in `search_path`, None without one; Linux only."""
    folders = (Path(folder) for folder in search_path.split(os.pathsep) if folder)
    found = next((folder for folder in folders if (folder / "libcuda.so.1").exists()), None)
    if found is None or not sys.platform.startswith("linux"):
        return None
    links = work / "driver"
    links.mkdir(exist_ok=True)
    for file in (file for pattern in _DRIVER_FILES for file in found.glob(pattern)):
        with contextlib.suppress(FileExistsError):
            (links / file.name).symlink_to(file.absolute())
    return links

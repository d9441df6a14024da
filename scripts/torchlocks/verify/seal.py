"""The environment variables of the suite: the environment's own and the system's."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from torchlocks.core.systems import here
from torchlocks.install.activate import activation_environment

#: What the suite may know of the outside. Everything else (PYTHONPATH, LD_LIBRARY_PATH, LD_PRELOAD, DYLD_*,
#: PYTEST_*, OMP_NUM_THREADS, another environment's variables) would change what is tested.
_KEPT = frozenset(
    {
        "COMSPEC", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "LANG", "NUMBER_OF_PROCESSORS",
        "NVIDIA_VISIBLE_DEVICES", "PATHEXT",
        "PROCESSOR_ARCHITECTURE", "SYSTEMDRIVE", "SYSTEMROOT", "TEMP", "TERM", "TMP", "TMPDIR", "TZ", "WINDIR",
    }
)  # fmt: skip

#: And what begins so: the locale, where other nodes are, and which network interfaces lead to them.
_KEPT_PREFIXES = ("LC_", "TORCH_VERIFY_", "NCCL_", "GLOO_")

#: The files of an NVIDIA driver on Linux and on WSL, as shell patterns.
_DRIVER_FILES = ("libcuda.so*", "libcudadebugger.so*", "libnvidia-*.so*", "libdxcore.so*", "libd3d12*.so*")


def sealed_environment(prefix: Path, outside: Mapping[str, str], work: Path) -> dict[str, str]:
    """Return the variables that the suite runs with: the activated environment's and the system's.

    The home folder is an empty one below `work`, so that no user's site-packages, caches or configuration are used. A
    driver that is found through LD_LIBRARY_PATH alone (clusters, NixOS, some containers) is linked into a folder of its
    own, without the rest of that path, which may contain a CUDA toolkit.
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
    # -I does this for the suite's own process and for those it starts; these are for whoever starts Python without.
    kept |= {"PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}
    return activation_environment(prefix, kept)


def _driver_folder(search_path: str, work: Path) -> Path | None:
    """Return a folder below `work` with links to the NVIDIA driver's files, if `search_path` leads to one; Linux."""
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

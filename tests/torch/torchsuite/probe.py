"""Import torch in a fresh process, and report all that can be seen. Standard library only, until the import.

    python -I probe.py torch|numpy OUT.json

imports the named package first and the other second, then writes what it saw to OUT.json.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: The seed and the number of values of the sample that two processes must agree on.
SEED, SAMPLE = 20260801, 64


def loaded_libraries() -> list[str]:
    """Paths of the shared libraries that this process has loaded.

    From /proc/self/maps on Linux, the dynamic loader's image list on macOS, psapi on Windows.
    """
    if sys.platform.startswith("linux"):
        found = set()
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            # Six columns; the path is the last and may contain spaces.
            columns = line.split(maxsplit=5)
            if len(columns) == 6 and columns[5].startswith("/") and ".so" in Path(columns[5]).name:
                found.add(columns[5])
        return sorted(found)
    if sys.platform == "darwin":
        loader = ctypes.CDLL(None)
        loader._dyld_get_image_name.restype = ctypes.c_char_p
        count = loader._dyld_image_count()
        return sorted({loader._dyld_get_image_name(index).decode() for index in range(count)})
    if sys.platform == "win32":
        psapi, kernel = ctypes.WinDLL("psapi"), ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        process = ctypes.c_void_p(kernel.GetCurrentProcess())
        modules, needed = (ctypes.c_void_p * 4096)(), ctypes.c_ulong(0)
        psapi.EnumProcessModules(process, modules, ctypes.sizeof(modules), ctypes.byref(needed))
        paths, buffer = set(), ctypes.create_unicode_buffer(32768)
        for module in modules[: needed.value // ctypes.sizeof(ctypes.c_void_p)]:
            if psapi.GetModuleFileNameExW(process, ctypes.c_void_p(module), buffer, len(buffer)):
                paths.add(buffer.value)
        return sorted(paths)
    return []


def cuda_build(torch: Any) -> dict[str, Any]:
    """What a CUDA build reports without a GPU; empty for another build. An error is reported as its text.

    `torch.cuda.get_arch_list` is empty without a GPU, so the flags that it reads are taken from where it has them.
    """
    if torch.version.cuda is None:
        return {}
    questions: dict[str, Callable[[], Any]] = {
        "architectures": lambda: torch._C._cuda_getArchFlags(),
        "cudnn": lambda: torch.backends.cudnn.version(),
        "cudnn_compiled": lambda: list(torch._C._cudnn.getCompileVersion()),
        "cusparselt": lambda: torch.backends.cusparselt.version(),
        "nvshmem": lambda: torch._C._distributed_c10d._is_nvshmem_available(),
        "nccl": lambda: list(torch.cuda.nccl.version()),
        "available": lambda: torch.cuda.is_available(),
        "devices": lambda: torch.cuda.device_count(),
    }
    results: dict[str, Any] = {}
    for name, question in questions.items():
        try:
            results[name] = question()
        except Exception as error:
            results[name] = f"{type(error).__name__}: {error}"
    return results


def probe(first: str) -> dict[str, Any]:
    """Import torch and numpy, `first` first, and report the result."""
    begin = time.perf_counter()
    __import__(first)
    seconds = time.perf_counter() - begin
    import numpy
    import torch

    torch.manual_seed(SEED)
    sample = torch.rand(SAMPLE).tolist()
    normal = torch.randn(SAMPLE, dtype=torch.float64).tolist()
    bridge, refusal = None, None
    try:
        bridge = torch.from_numpy(numpy.arange(5.0)).mul(2).numpy().tolist()
    except Exception as error:
        # Torch that was built for another NumPy imports, and warns when it is given an array.
        refusal = f"{type(error).__name__}: {error}"
    product = torch.ones(256, 256) @ torch.ones(256, 256)
    return {
        "seconds": seconds,
        "torch_version": torch.__version__,
        "torch_file": torch.__file__,
        "torch_cuda": torch.version.cuda,
        "cuda_build": cuda_build(torch),
        "torch_git": torch.version.git_version,
        "torch_config": torch.__config__.show(),
        "parallel_info": torch.__config__.parallel_info(),
        "cxx11_abi": torch.compiled_with_cxx11_abi(),
        "numpy_version": numpy.__version__,
        "numpy_file": numpy.__file__,
        "bridge": bridge,
        "bridge_refusal": refusal,
        "product": product.double().sum().item(),
        "sample": sample,
        "normal": normal,
        "libraries": loaded_libraries(),
        "modules": sorted(
            {
                str(file)
                for module in list(sys.modules.values())
                if (file := getattr(module, "__file__", None)) and not str(file).startswith("<")
            }
        ),
        "path": sys.path,
        "isolated": bool(sys.flags.isolated),
        "python": list(sys.version_info[:3]),
        "python_says": sys.version,
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(probe(sys.argv[1])), encoding="utf-8")

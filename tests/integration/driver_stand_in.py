"""A driver for machines without one: `libcuda.so.1` and `libnvidia-ml.so.1` that answer what a test wants to hear.

They are compiled, so that everything that loads a driver is tested for real; only the hardware is missing. What they
answer is in environment variables: STAND_IN_GPUS (how many there are), STAND_IN_INIT (what cuInit returns).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

NAME, DRIVER, CUDA = "NVIDIA Stand-in", "575.57.08", "12.9"

_CUDA = """
#include <stdlib.h>
#include <string.h>
static int number(const char *name, int otherwise) { const char *v = getenv(name); return v ? atoi(v) : otherwise; }
static int gpus(void) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    int all = number("STAND_IN_GPUS", 1), named = 0;
    if (!visible) return all;
    /* As the driver counts: ordinals up to the first that is none. */
    for (const char *c = visible; *c >= '0' && *c < '0' + all; c++) { named++; if (*++c != ',') break; }
    return named;
}
int cuDriverGetVersion(int *v) { *v = 12090; return 0; }
int cuInit(unsigned flags) {
    int wanted = number("STAND_IN_INIT", 0);
    if (wanted < 0) abort();
    return wanted ? wanted : gpus() ? 0 : 100;
}
int cuDeviceGetCount(int *n) { *n = gpus(); return 0; }
"""

_NVML = """
#include <stdlib.h>
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *v, unsigned n) { strncpy(v, "575.57.08", n); return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { const char *v = getenv("STAND_IN_GPUS"); *n = v ? atoi(v) : 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = (void *)(size_t)(i + 1); return 0; }
int nvmlDeviceGetName(void *d, char *name, unsigned n) { strncpy(name, "NVIDIA Stand-in", n); return 0; }
"""


def compiler() -> str | None:
    """The C compiler, or None where there is none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def make_driver(folder: Path, *, nvml: bool = True, cuda: bool = True) -> Path:
    """Compile the stand-in into `folder`, which LD_LIBRARY_PATH is then to name."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"libcuda.so.1": _CUDA if cuda else None, "libnvidia-ml.so.1": _NVML if nvml else None}
    for name, source in parts.items():
        if source is not None:
            command = [compiler() or "cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / name)]
            subprocess.run(command, input=source, text=True, check=True)
    return folder

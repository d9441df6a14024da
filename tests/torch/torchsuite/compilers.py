"""NVIDIA's and Triton's compilers at work for GPUs that need not be there.

    python -I compilers.py nvrtc|triton ARCHITECTURE … [LIBRARY]

compiles a small kernel for each architecture (`90` for compute capability 9.0) and prints a JSON object: the size of
the machine code in bytes, or the error, by architecture. torch is imported first, as in a program that uses either.
LIBRARY is the file of NVRTC.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import sys
from importlib import import_module
from typing import Any

SOURCE = b'extern "C" __global__ void add(float *x) { x[threadIdx.x] += 1.0f; }'


def by_nvrtc(library: str, architecture: str) -> int | str:
    """Compile with NVRTC (its manual: nvrtcCreateProgram, nvrtcCompileProgram); bytes of machine code, or the log."""
    nvrtc = ctypes.CDLL(library)
    program, size = ctypes.c_void_p(), ctypes.c_size_t(0)
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE, b"add.cu", 0, None, None) != 0:
        return "nvrtcCreateProgram failed"
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture=sm_{architecture}".encode())
    if nvrtc.nvrtcCompileProgram(program, 1, options) != 0:
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        return " ".join(log.value.decode(errors="replace").split())
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    return size.value


def by_triton(architecture: str) -> int | str:
    """Compile with Triton, whose last step is NVIDIA's assembler; bytes of machine code, or the error."""
    triton: Any = import_module("triton")
    target = import_module("triton.backends.compiler").GPUTarget("cuda", int(architecture), 32)
    ast_source: Any = import_module("triton.compiler").ASTSource
    # Triton 3.2 gave the constants another name.
    constants = "constexprs" if "constexprs" in inspect.signature(ast_source).parameters else "constants"
    known: dict[str, Any] = {constants: {"n": 128}}
    source = ast_source(fn=triton.jit(add), signature={"x": "*fp32", "y": "*fp32", "n": "constexpr"}, **known)
    try:
        return len(triton.compile(source, target=target).asm["cubin"])
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def add(x, y, n):  # type: ignore[no-untyped-def]
    """The kernel that Triton compiles: it reads this very source."""
    index = tl.arange(0, n)
    tl.store(y + index, tl.load(x + index) + 1)


if __name__ == "__main__":
    import torch  # noqa: F401

    if sys.argv[1] == "nvrtc":
        results = {each: by_nvrtc(sys.argv[-1], each) for each in sys.argv[2:-1]}
    else:
        tl = import_module("triton.language")
        add.__annotations__["n"] = tl.constexpr
        results = {each: by_triton(each) for each in sys.argv[2:]}
    print(json.dumps(results))

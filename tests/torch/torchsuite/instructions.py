"""Inductor's search for the vector instructions that compiled code may use."""

from __future__ import annotations

import importlib
import platform
import sys
from typing import Any

import pytest


def find_widest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Inductor compile its test program until one set of instructions works, and not for the narrower ones, too.

    It uses the first set that works. On a processor with AVX-512 the programs for the others are three more runs of
    the compiler, several seconds for what no kernel uses. Does nothing on other processors, where no set is tried out,
    and for a torch without these names (`torch/_inductor/cpu_vec_isa.py`, since 2.5).
    """
    if sys.platform not in ("linux", "win32") or platform.machine() not in ("x86_64", "AMD64"):
        return

    def valid() -> list[Any]:
        # What torch does, but for the end at the first that works. Each set remembers whether it does.
        return next(([each] for each in sets if has.issuperset(str(each).split()) and each), [])

    try:
        cpu_vec_isa: Any = importlib.import_module("torch._inductor.cpu_vec_isa")
        sets, has = cpu_vec_isa.supported_vec_isa_list, set(cpu_vec_isa.x86_isa_checker())
        monkeypatch.setattr(cpu_vec_isa, "valid_vec_isa_list", valid)
    except (ImportError, AttributeError):
        return

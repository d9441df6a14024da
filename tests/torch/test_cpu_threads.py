"""Threads: there are as many as cores, they are used, and they do not change results."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import torch

from torchsuite import skips
from torchsuite.errors import U32, gamma, worst
from torchsuite.tiers import Measure, check


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@check("a torch without its OpenMP runs on one core without a warning")
def test_threads_are_used(measure: Measure) -> None:
    measure("cores", _cores())
    measure("threads", torch.get_num_threads())
    measure("interop_threads", torch.get_num_interop_threads())
    if _cores() == 1:
        skips.skip(skips.Reason.ONE_CORE, "the host has one core")
    assert torch.get_num_threads() > 1
    torch.randn(1 << 22).sin_().sum()
    if sys.platform.startswith("linux"):
        running = len(list(Path("/proc/self/task").iterdir()))
        measure("tasks", running)
        assert running > 1, "a parallel operation started no thread"


@check("a result that depends on the number of threads is one that cannot be repeated elsewhere")
def test_parallel_equals_serial(measure: Measure) -> None:
    if _cores() == 1:
        skips.skip(skips.Reason.ONE_CORE, "the host has one core")
    torch.manual_seed(3)
    a, b, x = torch.randn(300, 300), torch.randn(300, 300), torch.randn(1 << 20)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        serial = (a @ b, x.sum(), x.exp())
        torch.set_num_threads(max(2, before))
        parallel = (a @ b, x.sum(), x.exp())
    finally:
        torch.set_num_threads(before)
    # Either order of summation is within gamma_k of the exact product, so they are within twice that of each other.
    ratio = worst((serial[0] - parallel[0]).double(), 2 * gamma(300, U32) * (a.abs().double() @ b.abs().double()))
    measure("matmul_difference_over_bound", ratio)
    assert ratio <= 1
    assert abs((serial[1] - parallel[1]).item()) <= 2 * gamma(20 + 512, U32) * x.abs().sum().item()
    # Elementwise results may differ where a vector loop's tail falls elsewhere, by the functions' own error.
    assert worst((serial[2] - parallel[2]).double(), 8 * U32 * serial[2].double()) <= 1


@check("servers call torch from many Python threads at once")
def test_python_threads() -> None:
    layer = torch.nn.Linear(32, 32)
    x = torch.randn(16, 32)
    with torch.no_grad():
        expected = layer(x)
    results: list[bool] = []

    def work() -> None:
        with torch.no_grad():
            results.extend(torch.allclose(layer(x), expected, rtol=1e-5, atol=1e-6) for _ in range(20))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 80
    assert all(results)

"""What CUDA does beside computing: streams, copies, graphs, memory that runs out, errors, files."""

from __future__ import annotations

import gc
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchsuite import nodes, skips, training
from torchsuite.tiers import Measure, check


@check("work on another stream that is not waited for is read before it is written")
def test_streams_and_events(gpu: Any, measure: Measure) -> None:
    x = torch.zeros(1 << 22, device=gpu)
    side = torch.cuda.Stream(gpu)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    side.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(side):
        begin.record()
        for _ in range(100):
            x.add_(1)
        end.record()
    x.record_stream(side)
    torch.cuda.current_stream(gpu).wait_event(end)
    # This runs on the main stream; it sees every addition, or the event was not waited for.
    y = x * 2
    assert torch.equal(y.cpu(), torch.full((1 << 22,), 200.0))
    end.synchronize()
    assert end.query()
    milliseconds = begin.elapsed_time(end)
    measure("milliseconds", milliseconds)
    assert milliseconds > 0


@check("training programs copy batches from pinned memory while the GPU computes")
def test_pinned_memory(gpu: Any) -> None:
    source = torch.arange(1 << 20, dtype=torch.int64).pin_memory()
    assert source.is_pinned()
    there = source.to(gpu, non_blocking=True)
    there.mul_(3)
    back = torch.empty(1 << 20, dtype=torch.int64, pin_memory=True)
    back.copy_(there, non_blocking=True)
    torch.cuda.synchronize(gpu)
    assert torch.equal(back, torch.arange(1 << 20) * 3)


@check("workers, pinned memory and a GPU at once: workers that are forked must not touch CUDA", seconds=120)
def test_data_loader(gpu: Any) -> None:
    data = TensorDataset(torch.arange(64), torch.arange(64).float().unsqueeze(1).expand(64, 100).contiguous())
    seen = []
    for index, rows in DataLoader(data, batch_size=16, num_workers=2, pin_memory=True, timeout=60):
        assert rows.is_pinned()
        assert torch.equal(rows.to(gpu, non_blocking=True)[:, 0].cpu(), index.float())
        seen.append(index)
    assert torch.equal(torch.cat(seen), torch.arange(64))


@check("a CUDA graph replays kernels at fixed addresses; one that misses an input computes yesterday's results")
def test_cuda_graph(gpu: Any) -> None:
    torch.manual_seed(3)
    model = training.network().to(gpu)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.zeros(64, 2, device=gpu), torch.zeros(64, dtype=torch.int64, device=gpu)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    batches = [(torch.randn(64, 2, device=gpu), torch.randint(0, 2, (64,), device=gpu)) for _ in range(8)]
    # Libraries make their workspaces at first use, which a capture does not allow: hence a few steps before it.
    start = [parameter.detach().clone() for parameter in model.parameters()]
    side = torch.cuda.Stream(gpu)
    side.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream(gpu).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()

    def restart() -> None:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), start, strict=True):
                parameter.copy_(value)

    replayed, plain = [], []
    restart()
    for points, labels in batches:
        x.copy_(points)
        y.copy_(labels)
        graph.replay()
        replayed.append(captured.item())
    restart()
    for points, labels in batches:
        x.copy_(points)
        y.copy_(labels)
        plain.append(step().item())
    # The same kernels on the same numbers; only their order of summation may differ.
    assert replayed == pytest.approx(plain, rel=1e-4)
    assert len(set(replayed)) == len(replayed)


@check("running out of memory is the most common error there is: it is caught, and the work goes on")
def test_out_of_memory(gpu: Any, measure: Measure) -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError):
        torch.empty(1 << 46, dtype=torch.uint8, device=gpu)
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(gpu).total_memory
    # 256 MiB more than is in use now, so that small cards and large ones meet the same limit.
    limit = torch.cuda.memory_reserved(gpu) + (256 << 20)
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), gpu)
    rows, tried = 1 << 10, []
    try:
        # As training programs do: half the batch until it fits.
        while rows:
            tried.append(rows)
            try:
                total_of_batch = torch.ones(rows, 1 << 18, device=gpu).sum(dtype=torch.float64).item()
                break
            except torch.cuda.OutOfMemoryError:
                rows //= 2
                torch.cuda.empty_cache()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
        torch.cuda.empty_cache()
    measure("rows_tried", tried)
    # 1024 rows are 1 GiB, four times the limit: at most a quarter fits, and less where memory is in pieces.
    assert 16 <= rows <= 256
    assert total_of_batch == rows << 18
    assert torch.ones(1 << 20, device=gpu).sum().item() == 1 << 20


ASSERTION = """
import os
import torch
table = torch.zeros(5, 2, device="cuda")
index = torch.tensor([7], device="cuda")
try:
    torch.nn.functional.embedding(index, table)
    torch.cuda.synchronize()
except RuntimeError as error:
    assert "device-side assert" in str(error), error
    print("caught", flush=True)
    # What is torn down at the end needs a CUDA that works.
    os._exit(0)
"""


@check("an index out of bounds on a GPU is an error, and not somebody else's memory")
def test_device_assert(gpu: Any, run_python: Callable[..., str]) -> None:
    # In a process of its own, whose CUDA is of no use afterwards.
    assert "caught" in run_python(ASSERTION, timeout=150).splitlines()


LOADING = """
import os, sys
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import torch
assert not torch.cuda.is_available()
try:
    torch.load(sys.argv[1], weights_only=True)
except RuntimeError as error:
    assert "map_location" in str(error), error
else:
    raise SystemExit("a tensor of a GPU was loaded without one")
loaded = torch.load(sys.argv[1], weights_only=True, map_location="cpu")
print(loaded["x"].device, loaded["x"].sum().item())
"""


@check("checkpoints are written where there is a GPU and read where there is none")
def test_save_on_gpu_load_on_cpu(gpu: Any, tmp_path: Path, run_python: Callable[..., str]) -> None:
    path = os.fspath(tmp_path / "checkpoint.pt")
    x = torch.arange(1000.0, device=gpu)
    torch.save({"x": x}, path)
    again = torch.load(path, weights_only=True)["x"]
    assert again.device == x.device
    assert torch.equal(again, x)
    assert run_python(LOADING, path, timeout=150).split() == ["cpu", "499500.0"]


@check("a profile without kernels is CUPTI's doing: it is missing, of another version, or not permitted")
def test_profiler(gpu: Any, measure: Measure) -> None:
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    a = torch.ones(512, 512, device=gpu)
    torch.cuda.synchronize(gpu)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        (a @ a).relu_()
        torch.cuda.synchronize(gpu)
    on_gpu = [event for event in trace.events() if event.device_type == DeviceType.CUDA]
    measure("kernels", sorted({event.name for event in on_gpu})[:10])
    # A product and a relu are two kernels at least.
    assert len(on_gpu) >= 2, "the profile has no kernels: see CUPTI, and who may read the GPU's performance counters"


EXPANDABLE = """
import torch
blocks = [torch.full((1 << 20,), float(index), device="cuda") for index in range(8)]
before = torch.cuda.memory_reserved()
del blocks[::2]
# Twice the size of what was given back: an expandable segment grows instead of leaving holes.
large = torch.full((6 << 20,), 9.0, device="cuda")
assert [float(block.sum()) for block in blocks] == [index * float(1 << 20) for index in (1, 3, 5, 7)]
assert float(large.sum()) == 9.0 * (6 << 20)
print(sum(bool(segment.get("is_expandable")) for segment in torch.cuda.memory_snapshot()))
"""


@check("long runs with changing sizes are started with expandable segments, which use the driver's virtual memory")
def test_expandable_segments(gpu: Any, run_python: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux" or "microsoft" in platform.release().lower():
        skips.skip(skips.Reason.PLATFORM, "expandable segments are for Linux")
    # The name before torch 2.9, which later ones read, too.
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert int(run_python(EXPANDABLE, timeout=150).split()[-1]) >= 1, "no segment is expandable"


@check("NCCL needs sockets, shared memory and kernels of its own; one process alone shows whether it starts")
def test_nccl_starts(gpu: Any, tmp_path: Path, measure: Measure) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_nccl_available()):
        pytest.skip("this build has no NCCL")
    measure("verified", nodes.run_together("nccl", 1, tmp_path / "ranks").verified("collectives"))

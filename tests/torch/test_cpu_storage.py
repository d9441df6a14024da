"""Tensors to and from files, other libraries and other programs."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from torchsuite.tiers import check


@check("a checkpoint that does not come back is a lost training run")
def test_save_and_load(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    # A string: torch before 2.3 maps no other kind of path.
    path = os.fspath(tmp_path / "checkpoint.pt")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 7}, path)
    for mapped in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mapped)
        assert loaded["step"] == 7
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded["model"][name], tensor)
        torch.optim.AdamW(model.parameters()).load_state_dict(loaded["optimizer"])


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.bool, torch.complex64],
    ids=str,
)
@check("every dtype comes back with the same bits")
def test_dtypes_survive(dtype: torch.dtype) -> None:
    tensor = (torch.arange(24) % 5).to(dtype).reshape(2, 3, 4).transpose(0, 2)
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    assert loaded.dtype == dtype
    assert loaded.stride() == tensor.stride()
    assert torch.equal(loaded, tensor)


@check("weights_only prevents a downloaded checkpoint from running its author's code")
def test_weights_only_refuses_code(tmp_path: Path) -> None:
    path = tmp_path / "harmful.pt"
    torch.save({"path": tmp_path}, path)
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        torch.load(path, weights_only=True)


@check("numpy and torch share memory; an incompatible ABI copies, or crashes")
def test_numpy_bridge() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = torch.from_numpy(array)
    tensor[0, 0] = 42
    assert array[0, 0] == 42
    tensor.numpy()[1, 2] = -1
    assert tensor[1, 2] == -1
    assert np.asarray(torch.arange(3)).tolist() == [0, 1, 2]
    for dtype in (np.float64, np.float16, np.int64, np.uint8, np.bool_, np.complex128):
        assert torch.from_numpy(np.ones(2, dtype=dtype)).numpy().dtype == dtype


@check("dlpack is how tensors reach other frameworks")
def test_dlpack() -> None:
    tensor = torch.arange(6.0)
    assert np.from_dlpack(tensor).tolist() == tensor.tolist()
    array = np.arange(4.0)
    shared = torch.from_dlpack(array)
    array[0] = 5
    assert shared[0].item() == 5

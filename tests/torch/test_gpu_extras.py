"""torchvision and torchaudio on the GPU, where the environment has them."""

from __future__ import annotations

from typing import Any

import torch

from torchsuite import audio, vision
from torchsuite.expect import Expectation
from torchsuite.extras import need
from torchsuite.precision import tf32
from torchsuite.tiers import check


@check("torchvision's operators have CUDA kernels of their own, compiled for other architectures than torch's")
def test_vision_operators(gpu: Any, expectation: Expectation) -> None:
    need("torchvision", expectation)
    wrong = [name for name, right in vision.operators(gpu).items() if not right]
    assert not wrong, f"wrong: {', '.join(wrong)}"


@check("a residual network's gradient by cuDNN is that of the CPU's kernels")
def test_residual_network(gpu: Any, expectation: Expectation) -> None:
    need("torchvision", expectation)
    model = vision.residual_network()
    on_cpu = vision.gradients(model, torch.device("cpu"))
    with tf32(False):
        on_gpu = vision.gradients(model, gpu)
    for name, exact in on_cpu.items():
        # Float64 on both: the order of sums is all that differs, through some ten layers.
        torch.testing.assert_close(
            on_gpu[name], exact, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


@check("resampling and spectrograms run on GPUs in training pipelines")
def test_audio(gpu: Any, expectation: Expectation) -> None:
    torchaudio = need("torchaudio", expectation)
    with tf32(False):
        audio.resamples(torchaudio, gpu)
        audio.spectrograms(torchaudio, gpu)

"""A sabotage for each check of the suite's newer files: what breaks, as a pytest plugin that breaks it for that check.

Run by `sabotage_child.py` inside an environment. Nothing of it imports torch before a check runs, so that a test
without torch can compare this table with the suite.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Sabotage = Callable[[pytest.MonkeyPatch, pytest.Item], None]


def module(name: str) -> Any:
    return importlib.import_module(name)


def changed(place: str, name: str, change: Callable[[Any], Any]) -> Sabotage:
    """Replace the attribute `name` of an importable object by what `change` makes of it."""

    def sabotage(patch: pytest.MonkeyPatch, item: pytest.Item) -> None:
        target, _, inner = place.partition(":")
        holder = module(target)
        for part in inner.split(".") if inner else ():
            holder = getattr(holder, part)
        patch.setattr(holder, name, change(getattr(holder, name)))

    return sabotage


def of_check(name: str, change: Callable[[Any], Any]) -> Sabotage:
    """Replace a constant in the file of the check itself, such as a program that it runs in another process."""

    def sabotage(patch: pytest.MonkeyPatch, item: pytest.Item) -> None:
        assert isinstance(item, pytest.Function)
        own: ModuleType = item.module
        patch.setattr(own, name, change(getattr(own, name)))

    return sabotage


def wrong_collectives(patch: pytest.MonkeyPatch, item: pytest.Item) -> None:
    """Processes in which nothing is broadcast, and whose reduce-scatter leaves zeros."""
    ranks, folder = module("torchsuite.ranks"), Path(item.config.getoption("basetemp"))
    script = folder.parent / "wrong_collectives.py"
    script.write_text(
        "import runpy, torch.distributed\n"
        "torch.distributed.broadcast = lambda *tensors, **more: None\n"
        "torch.distributed.reduce_scatter_tensor = lambda output, *rest, **more: output.zero_()\n"
        f"runpy.run_path({ranks.__file__!r}, run_name='__main__')\n",
        encoding="utf-8",
    )
    patch.setattr(ranks, "__file__", str(script))


def wrong_relu(patch: pytest.MonkeyPatch, item: pytest.Item) -> None:
    """A backward that lets a tenth of the gradient through where there is none."""
    torch = module("torch")

    class Leaky(torch.autograd.Function):  # type: ignore[misc,name-defined]
        @staticmethod
        def forward(context: Any, x: Any) -> Any:
            context.save_for_backward(x)
            return x.clamp_min(0)

        @staticmethod
        def backward(context: Any, gradient: Any) -> Any:
            (x,) = context.saved_tensors
            return gradient * torch.where(x > 0, 1.0, 0.1).to(gradient.dtype)

    patch.setattr(torch.nn.ReLU, "forward", lambda self, x: Leaky.apply(x))


def _told(name: str, value: object) -> Sabotage:
    """A CUDA build that tells `value` when it is asked for `name`."""

    def sabotage(patch: pytest.MonkeyPatch, item: pytest.Item) -> None:
        assert isinstance(item, pytest.Function)
        told: Any = item.funcargs["torch_reports"]
        patch.setitem(item.funcargs, "torch_reports", {**told, "cuda_build": {**told["cuda_build"], name: value}})

    return sabotage


def _without_triangle(real: Any) -> Any:
    return lambda *tensors, is_causal=False, **more: real(*tensors, **more)


def _static(real: Any) -> Any:
    return lambda function, **more: real(function, **{**more, "dynamic": False})


def _nothing(real: Any) -> Any:
    return lambda *arguments, **more: None


def _full_mask(real: Any) -> Any:
    return lambda rule, *sizes, **more: real(lambda b, h, q, k: q >= 0, *sizes, **more)


def _contiguous(real: Any) -> Any:
    return lambda self, x: real(self, x.contiguous()).contiguous()


SABOTAGES: dict[str, Sabotage] = {
    # Attention that forgets its causal triangle.
    "test_cpu_attention.py::test_attention": changed(
        "torch.nn.functional", "scaled_dot_product_attention", _without_triangle
    ),
    # A compiler that gives the function back.
    "test_cpu_compiled.py::test_compile": changed("torch", "compile", lambda real: lambda function, **more: function),
    "test_cpu_compiled.py::test_dynamic_shapes": changed("torch", "compile", _static),
    "test_cpu_compiled.py::test_graph_break_is_counted": changed("torch._dynamo", "graph_break", _nothing),
    # Nothing is timed: the first kernel that there is.
    "test_cpu_compiled.py::test_max_autotune": changed(
        "torch", "compile", lambda real: lambda function, **more: function
    ),
    # An optimiser whose compiled step does nothing.
    "test_cpu_compiled.py::test_compiled_optimizer": changed(
        "torch", "compile", lambda real: lambda function, **more: lambda: None
    ),
    "test_cpu_compiled.py::test_flex_attention": changed(
        "torch.nn.attention.flex_attention", "create_block_mask", _full_mask
    ),
    "test_cpu_compiled.py::test_vector_instructions": changed(
        "torch._inductor.cpu_vec_isa", "pick_vec_isa", lambda real: lambda: "INVALID_VEC_ISA"
    ),
    "test_cpu_formats.py::test_fp8_codes": changed("torch", "float8_e4m3fn", lambda real: module("torch").float8_e5m2),
    "test_cpu_formats.py::test_channels_last": changed("torch:nn.Conv2d", "forward", _contiguous),
    "test_cpu_formats.py::test_int8_layer": changed(
        "torch", "_int_mm", lambda real: lambda a, b: real(a, b).clamp(-(1 << 15), (1 << 15) - 1)
    ),
    # Buffers are not filled any more: results depend on what was there before.
    "test_cpu_formats.py::test_deterministic_algorithms": changed("torch", "empty", lambda real: module("torch").zeros),
    # No package is written, and torch's headers are not there: what takes long is not run.
    "test_cpu_packaged.py::test_package": changed(
        "torch._inductor", "aoti_compile_and_package", lambda real: lambda program, package_path, **more: package_path
    ),
    "test_cpu_packaged.py::test_cpp_extension": of_check(
        "EXTENSION", lambda text: text.replace("torch/library.h", "torch/no_such_library.h")
    ),
    # Another model is written than the one that was asked for.
    "test_cpu_programs.py::test_onnx": changed(
        "torch.onnx",
        "export",
        lambda real: (
            lambda model, *rest, **more: real(
                module("torch").nn.Sequential(model, module("torch").nn.Softplus()), *rest, **more
            )
        ),
    ),
    "test_cpu_random.py::test_generator": changed(
        "torch", "rand", lambda real: lambda count: module("torch").full((count,), 0.5)
    ),
    "test_cpu_distributed.py::test_gloo": wrong_collectives,
    "test_cpu_distributed.py::test_sharded_training": wrong_collectives,
    "test_cpu_vision.py::test_release": changed("torchvision", "__version__", lambda real: "0.1.0"),
    # The order of boxes as they come, and not by their scores.
    "test_cpu_vision.py::test_operators": changed(
        "torchvision.ops", "nms", lambda real: lambda boxes, scores, threshold: real(boxes, -scores, threshold)
    ),
    "test_cpu_vision.py::test_images": changed(
        "torchvision.io", "decode_jpeg", lambda real: lambda data: real(data).flip(-1)
    ),
    "test_cpu_vision.py::test_transforms": changed(
        "torchvision.transforms.v2.functional", "horizontal_flip", lambda real: lambda image: image
    ),
    "test_cpu_vision.py::test_residual_network": wrong_relu,
    "test_cpu_audio.py::test_release": changed("torchaudio", "__version__", lambda real: "2.0.1"),
    "test_cpu_audio.py::test_compiled_filter": changed(
        "torchaudio.functional", "lfilter", lambda real: lambda x, a, b, clamp: real(x, a, b.flip(0), clamp=clamp)
    ),
    # Every second sample, without the filter before it.
    "test_cpu_audio.py::test_resample": changed(
        "torchaudio.functional", "resample", lambda real: lambda wave, before, after: wave[..., :: before // after]
    ),
    "test_cpu_audio.py::test_spectrograms": changed(
        "torchaudio.functional",
        "melscale_fbanks",
        lambda real: lambda *sizes, mel_scale: 2 * real(*sizes),
    ),
    "test_cpu_audio.py::test_wave_file": changed(
        "torchaudio", "load", lambda real: lambda path: (real(path)[0] / 2, real(path)[1])
    ),
}

#: Sabotages for checks of CUDA builds, which need an environment for CUDA, and no GPU.
OF_CUDA_BUILDS: dict[str, Sabotage] = {
    "test_cuda_build_torch.py::test_cudnn_is_not_older_than_compiled": _told("cudnn_compiled", [9, 99, 0]),
    "test_cuda_build_torch.py::test_cusparselt": _told("cusparselt", 9902),
    "test_cuda_build_torch.py::test_nvshmem": _told("nvshmem", False),
    "test_cuda_build_torch.py::test_nccl": _told("nccl", [1, 0, 0]),
}

#: Files of which every check has to have a sabotage.
COVERED = (
    "test_cpu_attention.py",
    "test_cpu_audio.py",
    "test_cpu_compiled.py",
    "test_cpu_distributed.py",
    "test_cpu_formats.py",
    "test_cpu_packaged.py",
    "test_cpu_vision.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    with pytest.MonkeyPatch.context() as patch:
        {**SABOTAGES, **OF_CUDA_BUILDS}[item.nodeid.partition("[")[0]](patch, item)
        return (yield)

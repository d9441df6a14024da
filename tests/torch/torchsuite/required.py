"""The checks that must have run and passed for the headline "verified": the one table, by tier and check id.

A check that has parameters counts when all of those that were planned passed. A skip leaves no gap only with a reason
of `skips.Reason`. `name` is what the headline lists as missing: "no bf16, no NCCL". `--quick` runs the checks that are
marked `quick`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Required:
    """One required check. `only` is the kind of environment that it is required in; None: both."""

    id: str
    name: str
    only: Literal["cpu", "cuda"] | None = None
    quick: bool = False


REQUIRED: dict[str, tuple[Required, ...]] = {
    "static": (
        Required("test_static_lock.py::test_packages_are_those_of_the_lock", "comparison with the lock", quick=True),
        Required("test_static_lock.py::test_no_recorded_file_is_missing", "complete files"),
        Required("test_static_lock.py::test_torch_files_are_those_of_the_package", "torch's own files"),
        Required("test_static_lock.py::test_one_torch", "single torch", quick=True),
        Required("test_static_lock.py::test_python_is_of_the_prefix", "Python of the environment", quick=True),
        Required("test_static_lock.py::test_no_cuda_file", "search for CUDA files", only="cpu"),
    ),
    "import": (
        Required("test_import_torch.py::test_import", "import", quick=True),
        Required("test_import_torch.py::test_torch_version", "version of torch", quick=True),
        Required("test_import_torch.py::test_numpy_bridge", "NumPy", quick=True),
        Required("test_import_torch.py::test_one_openmp", "single OpenMP", quick=True),
        Required("test_import_torch.py::test_one_libtorch", "single libtorch", quick=True),
        Required("test_import_torch.py::test_libraries_come_from_the_prefix", "own libraries", quick=True),
    ),
    "cpu": (
        Required("test_cpu_identity.py::test_backends", "fast CPU kernels", quick=True),
        Required("test_cpu_identity.py::test_no_cuda", "check for CUDA devices", only="cpu", quick=True),
        Required("test_cpu_numerics.py::test_matmul", "matrix products on CPU", quick=True),
        Required("test_cpu_numerics.py::test_matmul_bf16", "bf16 on CPU", quick=True),
        Required("test_cpu_numerics.py::test_convolution", "convolutions on CPU", quick=True),
        Required("test_cpu_numerics.py::test_linear_algebra", "linear algebra on CPU", quick=True),
        Required("test_cpu_numerics.py::test_fft", "FFT on CPU", quick=True),
        Required("test_cpu_attention.py::test_attention", "attention on CPU"),
        Required("test_cpu_autograd.py::test_gradients", "gradients on CPU"),
        Required("test_cpu_random.py::test_seed_reproduces", "reproducible seeds", quick=True),
        Required("test_cpu_training.py::test_a_network_learns", "training on CPU"),
        Required("test_cpu_training.py::test_mixed_precision", "mixed precision on CPU"),
        Required("test_cpu_storage.py::test_save_and_load", "checkpoints", quick=True),
        Required("test_cpu_data.py::test_workers", "data loaders"),
        Required("test_cpu_compiled.py::test_compile", "torch.compile on CPU"),
        Required("test_cpu_programs.py::test_export", "torch.export"),
        Required("test_cpu_distributed.py::test_gloo", "gloo"),
        Required("test_cpu_distributed.py::test_sharded_training", "sharded training"),
        Required("test_cpu_vision.py::test_release", "matching torchvision"),
        Required("test_cpu_vision.py::test_operators", "torchvision operators"),
        Required("test_cpu_audio.py::test_release", "matching torchaudio"),
    ),
    "mps": (
        Required("test_mps_device.py::test_mps_is_used", "MPS device"),
        Required("test_mps_device.py::test_matmul", "matrix products on MPS"),
        Required("test_mps_device.py::test_training_follows_the_cpu", "training on MPS"),
    ),
    "cuda-build": (
        Required("test_cuda_build_torch.py::test_torch_is_a_cuda_build", "CUDA build", quick=True),
        Required("test_cuda_build_torch.py::test_cuda_version", "CUDA version", quick=True),
        Required("test_cuda_build_torch.py::test_architectures", "GPU architectures", quick=True),
        Required("test_cuda_build_torch.py::test_cudnn", "cuDNN version"),
        Required("test_cuda_build_torch.py::test_nccl", "NCCL version"),
        Required("test_cuda_build_libraries.py::test_every_library_loads", "loading of the CUDA libraries"),
        Required("test_cuda_build_libraries.py::test_libraries_come_from_the_prefix", "own CUDA libraries"),
    ),
    "gpu": (
        Required("test_gpu_device.py::test_the_gpu_is_used", "GPU", quick=True),
        Required("test_gpu_device.py::test_device_count", "device count", quick=True),
        Required("test_gpu_device.py::test_driver_floor", "driver comparison"),
        Required("test_gpu_device.py::test_architectures", "code for this GPU", quick=True),
        Required("test_gpu_device.py::test_every_device_computes", "computation on every GPU", quick=True),
        Required("test_gpu_numerics.py::test_matmul", "cuBLAS", quick=True),
        Required("test_gpu_numerics.py::test_matmul_tf32", "TF32"),
        Required("test_gpu_numerics.py::test_matmul_half[fp16]", "fp16"),
        Required("test_gpu_numerics.py::test_matmul_half[bf16]", "bf16"),
        Required("test_gpu_numerics.py::test_cudnn_is_used", "cuDNN", quick=True),
        Required("test_gpu_numerics.py::test_convolution", "convolutions"),
        Required("test_gpu_numerics.py::test_linear_algebra", "cuSOLVER"),
        Required("test_gpu_numerics.py::test_fft", "cuFFT"),
        Required("test_gpu_numerics.py::test_sparse", "cuSPARSE"),
        Required("test_gpu_attention.py::test_attention", "attention"),
        Required("test_gpu_learning.py::test_gradients", "gradients"),
        Required("test_gpu_learning.py::test_losses_follow_the_cpu", "training"),
        Required("test_gpu_learning.py::test_mixed_precision", "mixed precision"),
        Required("test_gpu_runtime.py::test_cuda_graph", "CUDA graphs"),
        Required("test_gpu_runtime.py::test_nccl_starts", "NCCL"),
        Required("test_gpu_extras.py::test_vision_operators", "torchvision operators on GPU"),
        Required("test_gpu_compiled.py::test_nvrtc", "NVRTC"),
        Required("test_gpu_compiled.py::test_compile", "torch.compile"),
    ),
    "multi-gpu": (
        Required("test_multi_gpu_together.py::test_copies_between_gpus", "copies between GPUs"),
        Required("test_multi_gpu_together.py::test_nccl", "NCCL between GPUs"),
    ),
}


def quick() -> tuple[str, ...]:
    """The ids of the checks that `--quick` runs."""
    return tuple(each.id for checks in REQUIRED.values() for each in checks if each.quick)

"""Every GPU that is known by name, over every committed lock: an environment that runs there has code for it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from packaging.version import Version

from torchlocks.core.layout import Layout
from torchlocks.host.compatibility import check_compatibility, needs_of
from torchlocks.host.doctor import Limits, diagnose, limits_of_locks
from torchlocks.host.gpu_rules import code_for
from torchlocks.host.nvidia import Gpu
from torchlocks.host.record import Host
from torchlocks.lockfile.formats import explicit_name, read_lock
from torchlocks.matrix.load import load_matrix
from torchlocks.site.pick import gpu_names

LAYOUT = Layout(Path(__file__).parents[3])
MATRIX = load_matrix(LAYOUT.matrix)
CUDA_LOCKS = [target for target in MATRIX.targets() if target.cuda]


@cache
def versions(env: str, platform: str) -> dict[str, str]:
    lock = read_lock(LAYOUT.locks / env / explicit_name(platform))
    return {package.name: package.version for package in lock.packages[platform]}


@cache
def limits(platform: str) -> Limits:
    """What the locked libraries have code for, of each environment once."""
    return cache(limits_of_locks(LAYOUT.locks, platform))


def oldest(env: str, platform: str) -> str:
    """The oldest compute capability that the locked libraries have code for, from what NVIDIA has published."""
    held = versions(env, platform)
    floors = ["0"]
    cudnn = next((held[name] for name in ("cudnn", "libcudnn") if name in held), None)
    if cudnn is not None:
        floors.append("7.5" if Version(cudnn) >= Version("9.11") else "5.0" if Version(cudnn).major >= 9 else "0")
    toolkit = next((held[name] for name in ("cuda-version", "cudatoolkit") if name in held), "11.0")
    floors.append({11: "3.5", 12: "5.0", 13: "7.5"}[Version(toolkit).major])
    return max(floors, key=Version)


def machine(platform: str, *gpus: tuple[str, str]) -> Host:
    found = tuple(Gpu(index=n, name=name, compute_capability=sm) for n, (name, sm) in enumerate(gpus))
    return Host(platform=platform, glibc="2.39", driver="640.10", cuda="14.1", gpus=found)


@pytest.mark.parametrize("target", CUDA_LOCKS, ids=lambda target: f"{target.env}-{target.platform}")
def test_what_runs_on_a_gpu_has_code_for_it_in_torch_and_in_every_library(target) -> None:  # type: ignore[no-untyped-def]
    needs = needs_of(MATRIX, target, limits(target.platform)(target.env))
    floor = oldest(target.env, target.platform)
    # What the row promises is what its libraries have.
    assert all(Version(each) >= Version(floor) for each in target.architectures)
    for name, capability in gpu_names().items():
        result = check_compatibility(needs, machine(target.platform, (name, capability)))
        in_torch = code_for(capability, target.torch_architectures, target.ptx)
        able = in_torch is not None and Version(capability) >= Version(floor)
        assert (result.state != "does-not-run") == able, (name, capability, result.reasons)
        if in_torch and not able:
            assert any("no code for GPUs older than" in reason.text for reason in result.reasons), result.reasons


@pytest.mark.parametrize("gpu", gpu_names().items(), ids=lambda gpu: gpu[0])
@pytest.mark.parametrize("platform", ["linux-64", "win-64"])
def test_the_recommended_environment_has_code_for_the_gpu_in_every_library(platform: str, gpu: tuple[str, str]) -> None:
    chosen = diagnose(MATRIX, machine(platform, gpu), limits=limits(platform)).best
    assert chosen is not None
    target = MATRIX.target(chosen, platform)
    if target.cuda is not None:
        assert Version(gpu[1]) >= Version(oldest(chosen, platform))
        assert code_for(gpu[1], target.torch_architectures, target.ptx) is not None
    else:
        # Nothing else than the CPU is left only where no CUDA default has code for it.
        assert Version(gpu[1]) < Version("5.0")


def test_a_gpu_before_turing_gets_what_has_code_for_it_and_the_others_say_why() -> None:
    """A GTX 1080 Ti with driver 570: cuDNN 9.11 and newer would break there, so the locks hold an older one."""
    host = replace(machine("linux-64", ("NVIDIA GeForce GTX 1080 Ti", "6.1")), driver="570.124.06", cuda="12.8")
    found = diagnose(MATRIX, host, limits=limits_of_locks(LAYOUT.locks, "linux-64"))
    assert found.best is not None
    assert MATRIX.target(found.best, "linux-64").cuda == "12.9"
    assert Version(oldest(found.best, "linux-64")) <= Version("6.1")
    for result in found.results:
        if result.cuda is not None and result.state == "does-not-run":
            assert result.reasons, result.env

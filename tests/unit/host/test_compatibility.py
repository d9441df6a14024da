"""The judgement: driver, GPU, glibc and platform against what each environment needs. Pure values."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from torchlocks.host.compatibility import check_compatibility, needs_of
from torchlocks.host.gpu_rules import code_for
from torchlocks.host.needs import Compatibility
from torchlocks.host.nvidia import Gpu
from torchlocks.host.record import Host
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.target import Target

MATRIX = load_matrix(Path(__file__).resolve().parents[3] / "matrix.yml")
TARGETS = [*MATRIX.targets(), *MATRIX.local_targets("linux-64")]
CAPABILITIES = ["3.0", "3.5", "5.0", "6.1", "7.0", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.3", "11.0", "12.1"]
DRIVERS = {  # Linux drivers and the CUDA that each says it runs.
    "440.33.01": "10.2",
    "450.80.02": "11.0",
    "470.82.01": "11.4",
    "520.61.05": "11.8",
    "525.60.13": "12.0",
    "535.104.05": "12.2",
    "560.28.03": "12.6",
    "575.51.03": "12.9",
    "580.65.06": "13.0",
    "640.10.02": "14.1",
}


def host(driver: str | None = None, *capabilities: str, platform: str = "linux-64", **more: object) -> Host:
    gpus = tuple(Gpu(index=index, name=f"GPU of {sm}", compute_capability=sm) for index, sm in enumerate(capabilities))
    values: dict[str, object] = {"platform": platform, "glibc": "2.35", "osx": "14.0", "gpus": gpus, "driver": driver}
    if driver is not None:
        values["cuda"] = DRIVERS.get(driver)
    return Host(**(values | more))  # type: ignore[arg-type]


def judge(env: str, machine: Host) -> Compatibility:
    return check_compatibility(needs_of(MATRIX, MATRIX.target(env, machine.platform)), machine)


def kinds(result: Compatibility) -> list[str]:
    return [reason.kind for reason in result.reasons]


@pytest.mark.parametrize(
    ("driver", "env", "state", "why"),
    [
        ("440.33.01", "gpu-cu118", "does-not-run", ["driver-floor"]),
        ("450.80.02", "gpu-cu118", "runs-with-remark", ["minor-version"]),
        ("520.61.05", "gpu-cu118", "runs", []),
        ("640.10.02", "gpu-cu118", "runs", []),
        ("520.61.05", "gpu-cu126", "does-not-run", ["driver-floor"]),
        ("525.60.13", "gpu-cu129", "runs-with-remark", ["minor-version"]),
        ("575.51.03", "gpu-cu129", "runs", []),
        ("575.51.03", "gpu-cu131", "does-not-run", ["driver-floor"]),
        ("580.65.06", "gpu-cu133", "runs-with-remark", ["minor-version"]),
        ("640.10.02", "gpu-cu133", "runs", []),
    ],
)
def test_a_driver_against_cuda(driver: str, env: str, state: str, why: list[str]) -> None:
    result = judge(env, host(driver, "8.0"))
    assert (result.state, kinds(result)) == (state, why)


def test_a_driver_below_the_floor_names_which_to_install() -> None:
    (reason,) = judge("gpu-cu126", host("470.82.01", "8.0")).reasons
    assert "470.82.01" in reason.text
    assert reason.fix is not None
    assert "525.60.13" in reason.fix


@pytest.mark.parametrize(
    ("capability", "env", "state", "why"),
    [
        ("3.0", "gpu-cu118", "does-not-run", ["architecture"]),
        ("3.5", "gpu-cu118", "does-not-run", ["architecture"]),  # torch has code for it, cuDNN 9 has not
        ("5.0", "gpu-cu118", "runs", []),
        ("7.0", "gpu-cu131", "does-not-run", ["architecture"]),
        ("8.9", "gpu-cu129", "runs", []),  # by machine code for 8.6
        ("9.0", "gpu-cu118", "runs-with-remark", ["ptx"]),
        ("9.0", "gpu-cu126", "runs", []),
        ("10.0", "gpu-cu126", "runs-with-remark", ["ptx"]),
        ("10.0", "gpu-cu124", "does-not-run", ["architecture"]),  # no PTX in PyTorch's own builds
        ("12.1", "gpu-cu131", "runs", []),
    ],
)
def test_a_gpu_against_the_code_in_torch(capability: str, env: str, state: str, why: list[str]) -> None:
    result = judge(env, host("640.10.02", capability))
    assert (result.state, kinds(result)) == (state, why)


def test_ptx_needs_a_driver_as_new_as_its_compiler() -> None:
    # Minor-version compatibility covers machine code, not PTX: an H100 runs PTX of CUDA 11.8 from driver 520 on.
    old = judge("gpu-cu118", host("470.82.01", "9.0"))
    assert (old.state, [reason.driver for reason in old.blocking]) == ("does-not-run", ["520.61.05"])
    assert judge("gpu-cu118", host("520.61.05", "9.0")).state == "runs-with-remark"
    # The same where nobody says which CUDA the driver runs.
    assert judge("gpu-cu118", host("470.82.01", "9.0", cuda=None)).state == "does-not-run"


def test_ptx_depends_on_the_compiler_of_torch_and_not_on_the_libraries() -> None:
    # On Linux the row for CUDA 12.8 is torch as compiled with 12.6.
    result = judge("gpu-cu128", host("560.28.03", "10.0"))
    assert (result.state, kinds(result)) == ("runs-with-remark", ["minor-version", "ptx"])


def test_several_gpus_are_checked_one_by_one() -> None:
    result = judge("gpu-cu131", host("640.10.02", "8.0", "6.1", "9.0"))
    assert (result.state, result.gpus) == ("runs-with-remark", (0, 2))
    assert result.headline == "runs on GPUs 0 and 2, not on GPU 1"
    assert judge("gpu-cu131", host("640.10.02", "6.1", "7.0")).state == "does-not-run"


def test_eight_gpus_of_a_kind_are_one_reason() -> None:
    (reason,) = judge("gpu-cu118", host("640.10.02", *["9.0"] * 8)).reasons
    assert reason.gpus == tuple(range(8))


def test_a_gpu_that_no_driver_helps_is_reported_beside_the_driver() -> None:
    assert kinds(judge("gpu-cu131", host("470.82.01", "7.0"))) == ["driver-floor", "architecture"]


def test_a_wsl_driver_counts_as_one_of_windows() -> None:
    # 527.41 is above the floor of Linux (525.60.13) and below that of Windows (528.33).
    assert judge("gpu-cu129", host("527.41", "8.6", cuda="12.0")).state == "runs-with-remark"
    (reason,) = judge("gpu-cu129", host("527.41", "8.6", cuda="12.0", kind="wsl")).reasons
    assert reason.kind == "driver-floor"
    assert reason.fix is not None
    assert "Windows" in reason.fix


def test_a_newer_libcuda_beside_an_older_driver() -> None:
    # cuda-compat: the driver is of CUDA 12, libcuda of CUDA 13.
    result = judge("gpu-cu131", host("535.104.05", "8.0", cuda="13.1"))
    assert (result.state, kinds(result)) == ("runs-with-remark", ["forward"])
    assert judge("gpu-cu133", host("535.104.05", "8.0", cuda="13.1")).state == "does-not-run"


def test_windows_has_drivers_of_its_own() -> None:
    machine = host("527.41", "8.6", platform="win-64", cuda="12.0", glibc=None)
    assert kinds(judge("gpu-cu129", machine)) == ["driver-floor"]


def test_an_override_alone_is_compared_by_its_cuda() -> None:
    def stated(cuda: str) -> Host:
        return host(None, "8.0", cuda=cuda)

    assert judge("gpu-cu129", stated("11.8")).state == "does-not-run"
    assert judge("gpu-cu129", stated("12.0")).state == "runs-with-remark"
    assert judge("gpu-cu129", stated("13.0")).state == "runs"


@pytest.mark.parametrize("cuda", ["gpu-cu126", "gpu-cu129"])
def test_jetson_does_not_run_what_is_built_for_servers(cuda: str) -> None:
    machine = host("580.65.06", "11.0", platform="linux-aarch64", kind="jetson")
    assert kinds(judge(cuda, machine)) == ["jetson"]


def test_jetson_from_cuda_13_on() -> None:
    def jetson(capability: str, cuda: str | None) -> Compatibility:
        machine = host(None, capability, platform="linux-aarch64", kind="jetson", cuda=cuda)
        return judge("gpu-cu131", machine)

    assert jetson("11.0", "13.1").state == "runs"
    assert jetson("8.7", "12.6").state == "does-not-run"
    # Orin: nobody promises that code for discrete GPUs runs there.
    assert (jetson("8.7", "13.2").state, kinds(jetson("8.7", "13.2"))) == ("unknown", ["architecture"])
    assert jetson("11.0", None).state == "unknown"


def test_no_driver_is_not_a_no() -> None:
    result = judge("gpu-cu129", host())
    assert (result.state, kinds(result), result.headline) == ("unknown", ["no-driver"], "no driver here")


def test_a_driver_without_a_gpu_is_not_a_yes() -> None:
    assert kinds(judge("gpu-cu118", host("640.10.02"))) == ["no-gpu"]


def test_a_gpu_of_unknown_capability_is_neither() -> None:
    machine = Host(platform="linux-64", glibc="2.35", driver="640.10.02", gpus=(Gpu(index=0, name="a GPU"),))
    assert (judge("gpu-cu118", machine).state, kinds(judge("gpu-cu118", machine))) == ("unknown", ["not-known"])


def test_one_gpu_without_code_and_one_of_unknown_capability() -> None:
    machine = host("640.10.02", "6.1")
    machine = replace(machine, gpus=(*machine.gpus, Gpu(index=1, name="a GPU")))
    assert (judge("gpu-cu131", machine).state, judge("gpu-cu131", machine).headline) == ("unknown", "not known")


def test_a_driver_that_does_not_work_runs_nothing() -> None:
    assert kinds(judge("gpu-cu118", host("640.10.02", "8.0", problem="NVML reports an error"))) == ["driver-problem"]


@pytest.mark.parametrize("env", ["cpu", "gpu-cu118"])
def test_glibc_and_platform(env: str) -> None:
    assert kinds(judge(env, host("640.10.02", "8.0", glibc="2.17"))) == ["glibc"]
    assert kinds(judge(env, host("640.10.02", "8.0", glibc=None))) == ["glibc"]  # musl
    needs = needs_of(MATRIX, MATRIX.target(env, "linux-64"))
    assert kinds(check_compatibility(needs, host(platform="osx-arm64"))) == ["platform"]


def test_macos() -> None:
    assert judge("cpu", host(platform="osx-arm64", glibc=None)).state == "runs"
    assert kinds(judge("cpu", host(platform="osx-arm64", glibc=None, osx="11.0"))) == ["osx"]


@given(st.sampled_from(TARGETS), st.sampled_from(sorted(DRIVERS)), st.lists(st.sampled_from(CAPABILITIES), max_size=3))
def test_a_newer_driver_never_takes_anything_away(target: Target, driver: str, capabilities: list[str]) -> None:
    needs = needs_of(MATRIX, target)
    order = sorted(DRIVERS, key=Version)
    runs = [
        set(check_compatibility(needs, host(each, *capabilities, platform=target.platform)).gpus)
        for each in order[order.index(driver) :]
    ]
    assert all(earlier <= later for earlier, later in itertools.pairwise(runs))


@given(
    st.sampled_from(TARGETS),
    st.sampled_from(["linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64"]),
    st.sampled_from(["native", "wsl", "jetson"]),
    st.none() | st.sampled_from(sorted(DRIVERS)),
    st.lists(st.sampled_from(CAPABILITIES), max_size=3),
)
def test_every_incompatibility_has_its_reason(
    target: Target, platform: str, kind: str, driver: str | None, capabilities: list[str]
) -> None:
    machine = host(driver, *capabilities, platform=platform, kind=kind)
    result = check_compatibility(needs_of(MATRIX, target), machine)
    assert (result.state == "runs") == (not result.reasons)
    assert all(reason.text and not reason.text.endswith(".") for reason in result.reasons)
    assert bool(result.gpus) == (result.state in ("runs", "runs-with-remark") and result.cuda is not None)
    assert set(result.gpus).isdisjoint(index for reason in result.blocking for index in reason.gpus)
    if result.state == "does-not-run":
        assert result.blocking


@given(st.sampled_from(CAPABILITIES), st.lists(st.sampled_from(CAPABILITIES), min_size=1))
def test_ptx_only_ever_helps(capability: str, architectures: list[str]) -> None:
    compiled = tuple(architectures)
    without = code_for(capability, compiled, None)
    for ptx in CAPABILITIES:
        found = code_for(capability, compiled, ptx)
        assert found == (without or ("ptx" if Version(ptx) <= Version(capability) else None))


@pytest.mark.parametrize(
    ("capability", "compiled", "runs"),
    [("8.6", "8.0", True), ("8.0", "8.6", False), ("9.0", "8.9", False), ("8.7", "8.0", False), ("8.9", "8.7", False)],
)
def test_machine_code_runs_upwards_within_a_major_and_not_across_tegra(
    capability: str, compiled: str, runs: bool
) -> None:
    assert (code_for(capability, (compiled,), None) == "machine") is runs

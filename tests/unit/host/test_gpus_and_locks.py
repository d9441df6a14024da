"""Every GPU that is known by name, on every committed lock: what is recommended has code for it in every library."""

from __future__ import annotations

from packaging.version import Version

from golden import LAYOUT
from torchlocks.cuda.libraries import limits_of
from torchlocks.host.compatibility import check_compatibility, needs_of
from torchlocks.host.doctor import diagnose, limits_of_locks
from torchlocks.host.nvidia import Gpu
from torchlocks.host.record import Host
from torchlocks.lockfile.formats import explicit_name, read_lock
from torchlocks.matrix.load import load_matrix
from torchlocks.site.pick import gpu_names

MATRIX = load_matrix(LAYOUT.matrix)


def machine(platform: str, capability: str) -> Host:
    return Host(
        platform=platform,
        glibc="2.39",
        driver="640.10.02",
        cuda="13.3",
        gpus=(Gpu(index=0, name="GPU", compute_capability=capability),),
    )


def test_no_environment_runs_on_a_gpu_that_a_library_has_no_code_for() -> None:
    capabilities = sorted(set(gpu_names().values()), key=Version)
    assert {"6.1", "7.0", "9.0"} <= set(capabilities)
    for target in MATRIX.targets():
        if target.cuda is None:
            continue
        lock = read_lock(LAYOUT.locks / target.env / explicit_name(target.platform))
        limits = limits_of(lock.packages[target.platform])
        assert limits, "no library of a CUDA lock is known"
        for capability in capabilities:
            host = machine(target.platform, capability)
            if target.platform == "linux-aarch64" and capability in ("5.3", "6.2", "7.2", "8.7", "11.0"):
                continue  # Jetson, which has rules of its own
            result = check_compatibility(needs_of(MATRIX, target, limits), host)
            has_code = all(Version(capability) >= Version(limit.oldest) for limit in limits)
            assert has_code or result.state == "does-not-run", (target.env, target.platform, capability)
            # The matrix alone, without a lock, promises no more than the lock holds.
            promised = check_compatibility(needs_of(MATRIX, target), host).state != "does-not-run"
            assert promised == (result.state != "does-not-run"), (target.env, target.platform, capability)


def test_a_gpu_before_turing_has_an_environment_for_cuda_12() -> None:
    for capability in ("5.0", "6.1", "7.0"):
        host = machine("linux-64", capability)
        diagnosis = diagnose(MATRIX, host, limits=limits_of_locks(LAYOUT.locks, host.platform))
        assert diagnosis.best == "gpu-cu129"
        refused = {result.env: result.reasons for result in diagnosis.results if result.state == "does-not-run"}
        assert {"gpu-cu130", "gpu-cu133"} <= set(refused)


def test_the_reason_names_the_library() -> None:
    target = MATRIX.target("gpu-cu118", "linux-64")
    lock = read_lock(LAYOUT.locks / target.env / explicit_name(target.platform))
    result = check_compatibility(
        needs_of(MATRIX, target, limits_of(lock.packages[target.platform])), machine("linux-64", "3.5")
    )
    assert [reason.kind for reason in result.blocking] == ["architecture"]
    assert "cuDNN 9" in result.blocking[0].text


def test_with_a_package_that_only_a_variant_has() -> None:
    host = machine("linux-64", "9.0")
    diagnosis = diagnose(MATRIX, host, needed=("torchvision", "torchaudio"))
    assert diagnosis.best == "gpu-cu129-torch2.10-py314"
    assert all(any(text.startswith("torchaudio") for text in result.holds) for result in diagnosis.results)
    assert any("PY=3.14 TORCH=2.10" in sentence for sentence in diagnosis.advice)

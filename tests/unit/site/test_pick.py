"""A machine in a few words, and the environment for it, on the index of this repository."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlocks.core.errors import NoSuchRowError, TorchlocksError, UnfitHostError
from torchlocks.core.layout import Layout
from torchlocks.export.clients import CLIENTS, find_client
from torchlocks.matrix.load import load_matrix
from torchlocks.site.candidates import candidates_of_locks
from torchlocks.site.catalogue import read_catalogue
from torchlocks.site.index import Index
from torchlocks.site.pick import Machine, Wanted, capability, choose, gpu_names, pick

LAYOUT = Layout(Path(__file__).parents[3])


@pytest.fixture(scope="module")
def index() -> Index:
    return read_catalogue(LAYOUT).index


@pytest.mark.parametrize(
    ("machine", "env"),
    [
        (Machine(platform="linux-64"), "cpu"),
        (Machine(platform="osx-arm64"), "cpu"),
        (Machine(platform="linux-64", driver="535", gpu="A100"), "gpu-cu129"),
        (Machine(platform="linux-64", driver="470.57.02", gpu="T4"), "gpu-cu118"),
        # CUDA 13 has no code for it, CUDA 12 has.
        (Machine(platform="linux-64", driver="590", gpu="V100"), "gpu-cu129"),
        (Machine(platform="linux-64", driver="590", gpu="H100"), "gpu-cu133"),
        # Only CUDA 11.8 has code for it.
        (Machine(platform="linux-64", driver="470.57.02", gpu="5.2"), "gpu-cu118"),
        (Machine(platform="linux-64", driver="418", gpu="V100"), "cpu"),
        # The driver of WSL is that of Windows, whose floors are other ones.
        (Machine(platform="linux-64", driver="527", gpu="A100", wsl=True), "gpu-cu118"),
        (Machine(platform="linux-64", driver="527", gpu="A100"), "gpu-cu129"),
        # Enterprise Linux 7: only the rows from PyTorch's own channel were solved for so old a glibc.
        (Machine(platform="linux-64", driver="535", gpu="A100", glibc="2.17"), "gpu-cu124"),
        (Machine(platform="win-64", driver="560", gpu="RTX 4090"), "gpu-cu129"),
    ],
)
def test_the_environment_for_a_machine(index: Index, machine: Machine, env: str) -> None:
    assert pick(index, machine).environment.name == env


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(packages=("torchvision",)), Wanted(python="3.13")])
def test_explicit_files_decide_as_the_index_does(index: Index, wanted: Wanted) -> None:
    matrix = load_matrix(LAYOUT.matrix)
    for machine in (Machine(platform="linux-64", driver="535", gpu="A100"), Machine(platform="win-64")):
        here = tuple(candidates_of_locks(LAYOUT, matrix, wanted.candidates(matrix, machine.platform)))
        choice = choose(here, matrix.left_out, machine, wanted=wanted)
        found = pick(index, machine, wanted=wanted)
        assert choice.candidate.env == found.environment.name
        assert (choice.result.state, choice.result.reasons) == (found.result.state, found.result.reasons)
        assert (choice.refused, choice.more) == (found.refused, found.more)


def test_a_lock_without_explicit_files_is_a_candidate(tmp_path: Path) -> None:
    shutil.copytree(LAYOUT.locks / "cpu", tmp_path / "locks" / "cpu", ignore=shutil.ignore_patterns("conda-*-*.lock"))
    matrix = load_matrix(LAYOUT.matrix)
    targets = [matrix.target("cpu", "linux-64"), matrix.target("gpu-cu129", "linux-64")]
    (other,) = candidates_of_locks(Layout(tmp_path), matrix, targets)
    (mine, _) = candidates_of_locks(LAYOUT, matrix, targets)
    assert other == mine


def test_the_driver_that_would_allow_more_is_reported(index: Index) -> None:
    more = pick(index, Machine(platform="linux-64", driver="470.57.02", gpu="A100")).more
    assert any("525.60.13" in sentence and "gpu-cu129" in sentence for sentence in more)
    assert not pick(index, Machine(platform="linux-64", driver="590", gpu="H100")).more


def test_one_cuda_version_can_be_asked_for(index: Index) -> None:
    machine = Machine(platform="linux-64", driver="570", gpu="A100")
    assert pick(index, machine, "12.6").environment.name == "gpu-cu126"
    with pytest.raises(UnfitHostError, match="older than 580"):
        pick(index, machine, "13.1")
    with pytest.raises(NoSuchRowError, match="never built") as caught:
        pick(index, machine, "12.2")
    assert "12.4" in str(caught.value.fix)


def test_why_a_gpu_is_not_used_is_reported(index: Index) -> None:
    refused = pick(index, Machine(platform="linux-64", driver="418", gpu="V100")).refused
    assert any("gpu-cu118" in reason and "450.80.02" in reason for reason in refused)


def test_where_nothing_runs_the_reasons_are_reported(index: Index) -> None:
    with pytest.raises(UnfitHostError) as caught:
        pick(index, Machine(platform="linux-aarch64", glibc="2.12"))
    assert "glibc" in str(caught.value.details)
    with pytest.raises(NoSuchRowError, match="linux-ppc64le"):
        pick(index, Machine(platform="linux-ppc64le"))


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("A100", "8.0"),
        ("a100", "8.0"),
        ("NVIDIA A100-SXM4-80GB", "8.0"),
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("Tesla V100-PCIE-16GB", "7.0"),
        ("NVIDIA GeForce RTX 4090", "8.9"),
        ("RTX 3060 Ti", "8.6"),
        ("GTX 1080", "6.1"),
        ("GTX 980", "5.2"),
        ("RTX 5090", "12.0"),
        ("L40S", "8.9"),
        ("RTX 6000 Ada", "8.9"),
        ("8.6", "8.6"),
        ("sm_90", "9.0"),
        ("sm_120", "12.0"),
    ],
)
def test_gpus_by_name(named: str, found: str) -> None:
    assert capability(named) == found


@pytest.mark.parametrize("named", ["A1000", "RTX 4000", "MI300X", "", "9" * 5000 + ".0", "sm_" + "9" * 5000, "٨.٤"])
def test_a_gpu_that_is_not_known_is_not_guessed(named: str) -> None:
    with pytest.raises(UnfitHostError) as caught:
        capability(named)
    assert "compute_cap" in str(caught.value.fix)


@pytest.mark.parametrize("typed", ["9" * 5000, "1." * 5000 + "1", "٣٣٤", "5e2"])
def test_what_is_no_version_is_refused(index: Index, typed: str) -> None:
    for machine in (Machine(platform="linux-64", driver=typed), Machine(platform="linux-64", glibc=typed)):
        with pytest.raises(UnfitHostError) as caught:
            pick(index, machine)
        assert len(str(caught.value.what)) < 200


@given(st.text(max_size=30), st.text(max_size=12))
def test_whatever_is_typed_is_answered_or_refused(index: Index, gpu: str, driver: str) -> None:
    # Anything but an error of ours, which has its exit code and its advice, fails the test.
    with suppress(TorchlocksError):
        assert pick(index, Machine(platform="linux-64", driver=driver, gpu=gpu)).result.state != "does-not-run"


def test_every_gpu_of_the_list_is_found_by_its_name() -> None:
    for name, value in gpu_names().items():
        assert capability(name) == value


def test_the_lines_name_files_that_are_there(index: Index) -> None:
    for env, entry in index.cells():
        for client in CLIENTS.values():
            path = client.path(env.name, entry.platform)
            assert (LAYOUT.root / path).is_file()
            assert path in {file.path for file in entry.files}
            assert path in client.command(env.name, entry.platform)
    with pytest.raises(NoSuchRowError, match="yarn"):
        find_client("yarn")

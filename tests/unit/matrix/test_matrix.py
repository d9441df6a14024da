"""The matrix: what is in it, what is refused, and what the refusal says."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from golden import LAYOUT, SCHEMA
from torchlocks.core.errors import MatrixError, NoSuchRowError
from torchlocks.matrix.load import load_matrix, matrix_schema

MATRIX = load_matrix(LAYOUT.matrix)
TEXT = LAYOUT.matrix.read_text(encoding="utf-8")


def test_the_schema_for_editors_is_the_models() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == matrix_schema(), "run `make golden`"


def test_a_cpu_target_has_no_cuda() -> None:
    for target in MATRIX.targets():
        assert ("__cuda" in target.virtual_packages) == (target.accelerator == "cuda")
        assert (target.driver is None) == (target.accelerator == "cpu")


def test_a_row_runs_on_every_driver_of_its_major() -> None:
    for target in MATRIX.targets():
        if target.cuda:
            assert Version(target.virtual_packages["__cuda"]) <= Version(target.cuda)
            assert Version(target.virtual_packages["__cuda"]).major == Version(target.cuda).major


@pytest.mark.parametrize(
    ("cuda", "platform", "said"),
    [
        ("12.3", "linux-64", ["never built", "CUDA=12.1", "CUDA=12.4", "525.60.13"]),
        ("12.3", "win-64", ["never built", "CUDA=12.4", "528.33"]),
        ("12.0", "linux-64", ["cuda-nvtx", "CUDA=11.8", "CUDA=12.1"]),
        ("14.0", "linux-64", ["no PyTorch build", "CUDA=13.3"]),
        ("10.2", "linux-64", ["CUDA=11.8"]),
        ("11.8", "win-64", ["gpu-cu118 does not exist for win-64", "linux-64", "gpu-cu124"]),
        ("12.9", "osx-arm64", ["does not exist for osx-arm64", "cpu"]),
        ("12.3", "osx-arm64", ["env-cpu"]),
        ("118", "linux-64", ["not a CUDA version", "11.8"]),
        ("12.6", "linux-ppc64le", ["not a platform", "linux-64"]),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest(cuda: str, platform: str, said: list[str]) -> None:
    with pytest.raises(NoSuchRowError) as caught:
        MATRIX.gpu_environment(cuda, platform)
    for words in said:
        assert words in str(caught.value)


def test_a_version_is_found() -> None:
    assert MATRIX.gpu_environment("11.8", "linux-64") == "gpu-cu118"


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(NoSuchRowError, match="gpu-cu118"):
        MATRIX.target("gpu-cu117", "linux-64")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('build: "cpu*",', 'buidl: "cpu*",', ["environments.cpu.platforms.linux-64.buidl: no such key"]),
        ('virtual_cuda: "11.0"', 'virtual_cuda: "12.0"', ["gpu-cu118", "another CUDA major"]),
        ("channels: [conda-forge]", "channels: conda-forge", ["environments.cpu.channels"]),
        ("  linux-64:\n", "  linux-64\n", ["not valid YAML"]),
        ('python: "3.12"', "python: 3.12", ["environments.cpu.platforms.linux-64.python"]),
        ("  linux-64:\n", "  linux-65:\n", ["platforms.linux-65"]),
        ('  "12.2": torch', '  "12.4": torch', ["12.4", "left_out"]),
        ('{__win: "0"', '{__cuda: "12.0", __win: "0"', ["platforms.win-64: virtual_packages", "__cuda belongs"]),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(tmp_path: Path, old: str, new: str, said: list[str]) -> None:
    assert old in TEXT
    path = tmp_path / "matrix.yml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    line = TEXT[: TEXT.index(old)].count("\n") + 1
    with pytest.raises(MatrixError) as caught:
        load_matrix(path)
    text = str(caught.value)
    for words in said:
        assert words in text
    # The line of the mistake itself, or of the row or section that it contradicts.
    assert f"{path}:" in text
    if "left_out" not in said and "gpu-cu118" not in said:
        assert any(f"{path}:{near}:" in text for near in range(line - 1, line + 3)), (line, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match="No such file"):
        load_matrix(tmp_path / "matrix.yml")


@given(st.text(max_size=200))
def test_garbage_is_refused_and_never_a_traceback(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("matrix") / "matrix.yml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(MatrixError):
        load_matrix(path)


@given(st.text(alphabet="0123456789.cux", max_size=6), st.sampled_from(list(MATRIX.platforms)))
def test_any_cuda_version_is_a_row_or_a_refusal(cuda: str, platform: str) -> None:
    rows = {row.cuda: row for row in MATRIX.environments.values()}
    if cuda in rows and platform in rows[cuda].platforms:
        assert MATRIX.environments[MATRIX.gpu_environment(cuda, platform)].cuda == cuda
    else:
        with pytest.raises(NoSuchRowError) as caught:
            MATRIX.gpu_environment(cuda, platform)
        assert caught.value.fix


def test_the_matrix_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        MATRIX.rows = {}  # type: ignore[misc]

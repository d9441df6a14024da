"""Variants of a row, and pairs of a CUDA and a CPU environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchlocks.core.errors import MatrixError, NoSuchRowError
from torchlocks.lockfile.formats import PIXI, read_lock
from torchlocks.matrix.load import load_matrix

ROOT = Path(__file__).resolve().parents[3]
MATRIX = load_matrix(ROOT / "matrix.yml")

#: Defaults of CUDA rows that no CPU environment has the same PyTorch, torchvision and Python as.
UNPAIRED = {
    ("gpu-cu121", "linux-64"),
    ("gpu-cu124", "linux-64"),
    ("gpu-cu124", "win-64"),
    ("gpu-cu129", "win-64"),
}


def test_every_default_has_torchvision_or_a_reason() -> None:
    for target in MATRIX.defaults():
        packages = {p.name for p in read_lock(ROOT / "locks" / target.env / PIXI).packages[target.platform]}
        assert ("torchvision" in packages) == (target.torchvision is not None) == (target.lacks is None)
        assert ("torchaudio" in packages) == (target.torchaudio is not None)


def test_every_cuda_default_has_a_cpu_pair_with_the_same_versions() -> None:
    without = set()
    for target in MATRIX.defaults():
        if target.accelerator == "cuda" and target.platform in ("linux-64", "win-64"):
            pair = MATRIX.cpu_pair(target.env, target.platform)
            if pair is None:
                without.add((target.env, target.platform))
                continue
            locks = [read_lock(ROOT / "locks" / name / PIXI).packages[target.platform] for name in (target.env, pair)]
            gpu, cpu = ({p.name: p.version for p in packages} for packages in locks)
            for name in ("pytorch", "torchvision"):
                assert gpu.get(name) == cpu.get(name)
            assert gpu["python"].split(".")[:2] == cpu["python"].split(".")[:2]
    assert without == UNPAIRED


@pytest.mark.parametrize(
    ("python", "pytorch", "name"),
    [
        (None, None, "gpu-cu129"),
        ("3.12", "2.10", "gpu-cu129"),
        ("3.12", None, "gpu-cu129"),
        (None, "2.10", "gpu-cu129"),
        ("3.13", None, "gpu-cu129-torch2.12-py313"),
        (None, "2.7", "gpu-cu129-torch2.7-py312"),
        ("3.14", "2.10", "gpu-cu129-torch2.10-py314"),
    ],
)
def test_a_variant_is_found_by_python_and_torch(python: str | None, pytorch: str | None, name: str) -> None:
    assert MATRIX.variant("gpu-cu129", "linux-64", python=python, pytorch=pytorch) == name


def test_a_combination_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(NoSuchRowError) as refused:
        MATRIX.variant("gpu-cu129", "linux-64", python="3.13", pytorch="2.11")
    assert "PY=3.13 TORCH=2.12" in str(refused.value.fix)


@pytest.mark.parametrize("typed", ["latest", "3", "", "1e5", "9" * 5000, "٣.١٣", "3.13\n", ">=3.13"])
def test_what_is_no_version_is_refused(typed: str) -> None:
    for wanted in ({"python": typed}, {"pytorch": typed}):
        with pytest.raises(NoSuchRowError) as refused:
            MATRIX.variant("gpu-cu129", "linux-64", **wanted)
        assert "major and minor" in str(refused.value.fix)
        assert len(refused.value.what) < 200


def test_a_variant_names_its_row() -> None:
    assert MATRIX.row_of("gpu-cu129-torch2.12-py313") == "gpu-cu129"
    assert MATRIX.row_of("cpu") == "cpu"
    assert {target.env for target in MATRIX.defaults()} == set(MATRIX.rows)


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ("linux-64: [{python: '3.12'}]", "twice"),
        ("linux-64: [{python: '3.11'}, {python: '3.11', pytorch: '2.12'}]", "twice"),
        ("osx-64: [{python: '3.11'}]", "no default"),
        ("linux-64: [{python: '3.11', cuda: '12.9'}]", "no such key"),
    ],
)
def test_variants_that_make_no_sense_are_refused(tmp_path: Path, variants: str, said: str) -> None:
    path = tmp_path / "matrix.yml"
    path.write_text(
        f"""platforms: {{linux-64: {{virtual_packages: {{}}}}, osx-64: {{virtual_packages: {{}}}}}}
drivers: {{}}
environments:
  cpu:
    accelerator: cpu
    template: environment-cpu.yml
    channels: [conda-forge]
    platforms:
      linux-64: {{python: "3.12", pytorch: "2.12", build: "cpu*", torchvision: "0.27"}}
    variants:
      {variants}
"""
    )
    with pytest.raises(MatrixError) as refused:
        load_matrix(path)
    assert said in str(refused.value)


def test_a_variant_with_another_torch_does_not_inherit_torchvision() -> None:
    assert MATRIX.target("cpu-torch2.12-py311", "linux-64").torchvision is None
    assert MATRIX.target("cpu-torch2.7-py312", "linux-64").torchaudio == "2.7"


def test_the_local_channel_does_not_stand_in_for_a_variant() -> None:
    with pytest.raises(NoSuchRowError, match="variant"):
        MATRIX.local_target("cpu-torch2.7-py312", "linux-64")

"""The CUDA rows of the local channel: their pins, their sizes, and disks that are too small for them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from torchlocks.core.disk import require_space_on_disks
from torchlocks.core.errors import DiskFullError, MatrixError, NoSuchRowError, WheelError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.local_channel.pins import Pin, read_pins, select_pins
from torchlocks.local_channel.recipes import pin_file
from torchlocks.local_channel.space import announce
from torchlocks.local_channel.wheel_sizes import row_size, sizes_here
from torchlocks.matrix.load import load_matrix

ROOT = Path(__file__).resolve().parents[3]
RECIPES = ROOT / "recipes" / "local"
MATRIX = load_matrix(ROOT / "matrix.yml")
MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64"}
CELLS = [(cuda, platform) for cuda, cells in MATRIX.local.items() for platform in cells]
HASH = "a" * 64


def wheels_file(folder: Path, *files: str, **fields: object) -> None:
    entry = {"sha256": HASH, "size": 10, "unpacked": 30} | fields
    (folder / "wheel-sizes.json").write_text(json.dumps(dict.fromkeys(files, entry)), encoding="utf-8")


def pin(name: str, version: str = "1.0") -> Pin:
    return Pin(name=name, version=Version(version), hashes=frozenset({HASH}), marker=None, where="pins.txt:1")


def test_every_row_of_the_matrix_has_pins_and_every_pin_file_a_row() -> None:
    assert {pin_file(RECIPES, cuda).name for cuda in MATRIX.local} == {
        path.name for path in RECIPES.glob("torch-cu*.txt")
    }


@pytest.mark.parametrize(("cuda", "platform"), CELLS)
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_pins_of_a_row_are_whole_for_every_python(cuda: str, platform: str, python: str) -> None:
    """One wheel of each, with its size known, and torch as matrix.yml has it; or no torch at all."""
    environment = {str(key): str(value) for key, value in default_environment().items()} | {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_machine": MACHINES[platform],
    }
    pins = [p for p in read_pins(pin_file(RECIPES, cuda)) if p.marker is None or p.marker.evaluate(environment)]
    if (cuda, python) == ("13.2", "3.10"):
        assert pins == []
        return
    by_name = {p.name: p for p in pins}
    assert len(by_name) == len(pins)
    assert ".".join(map(str, by_name["torch"].version.release[:2])) == MATRIX.local[cuda][platform].pytorch  # type: ignore[index]
    sizes = json.loads((RECIPES / "wheel-sizes.json").read_text(encoding="utf-8"))
    tag = f"cp{python.replace('.', '')}"
    found = {
        canonicalize_name(parse_wheel_filename(file)[0])
        for file, size in sizes.items()
        for p in pins
        if size["sha256"] in p.hashes
        and any(
            (each.interpreter in ("py3", tag) or (each.abi == "abi3" and each.interpreter <= tag))
            and (each.platform == "any" or each.platform.endswith(MACHINES[platform]))
            for each in parse_wheel_filename(file)[3]
        )
    }
    assert found == by_name.keys()


def test_the_libraries_are_of_the_rows_own_cuda() -> None:
    for cuda in MATRIX.local:
        versions = {p.name: str(p.version) for p in read_pins(pin_file(RECIPES, cuda))}
        for name in ("nvidia-cuda-runtime", "nvidia-cuda-nvrtc", "nvidia-nvjitlink"):
            assert (versions.get(name) or versions[f"{name}-cu12"]).startswith(f"{cuda}."), (cuda, name)


def test_the_pins_name_no_index_and_no_address() -> None:
    for path in (*RECIPES.glob("torch-cu*"), RECIPES / "pin.py", RECIPES / "wheel-sizes.json"):
        assert not re.search(r"https?://", path.read_text(encoding="utf-8")), path


def test_the_size_is_that_of_this_machines_wheel(tmp_path: Path) -> None:
    best, other = (str(tag) for tag in list(sys_tags())[:2])
    foreign = "cp27-cp27m-win32"
    wheels_file(tmp_path, *(f"demo-1.0-{tag}.whl" for tag in (foreign, other, best)))
    assert sizes_here(tmp_path, [pin("demo")])["demo"].file == f"demo-1.0-{best}.whl"
    wheels_file(tmp_path, f"demo-1.0-{foreign}.whl")
    assert sizes_here(tmp_path, [pin("demo")]) == {}
    wheels_file(tmp_path, f"demo-1.0-{best}.whl", sha256="b" * 64)
    assert sizes_here(tmp_path, [pin("demo")]) == {}


def test_a_row_adds_its_wheels_up_and_has_no_torch_without_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "torch-cu990.txt").write_text(
        f"torch==1.0 --hash=sha256:{HASH}\nlibrary==1.0 --hash=sha256:{HASH}\n", encoding="utf-8"
    )
    wheels_file(tmp_path, "torch-1.0-py3-none-any.whl", "library-1.0-py3-none-any.whl")
    row = row_size(tmp_path, "99.0")
    assert (row.cuda, row.torch, row.download, row.unpacked) == ("99.0", "1.0", 20, 60)
    wheels_file(tmp_path, "torch-1.0-py3-none-any.whl")
    assert row_size(tmp_path, "99.0").torch is None


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a.whl": {}}', '{"a.whl": {"sha256": "x", "size": "much", "unpacked": 1}}']
)
def test_a_file_of_sizes_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "wheel-sizes.json").write_text(text, encoding="utf-8")
    with pytest.raises(WheelError) as caught:
        sizes_here(tmp_path, [pin("demo")])
    assert caught.value.where == str(tmp_path / "wheel-sizes.json")
    assert "pin.py" in str(caught.value.fix)


def test_a_disk_that_is_too_small_is_refused_with_what_goes_onto_it(tmp_path: Path) -> None:
    require_space_on_disks({tmp_path: ("wheels", 1), tmp_path / "not" / "there": ("packages", 1)})
    with pytest.raises(DiskFullError) as caught:
        require_space_on_disks({tmp_path: ("wheels", 10**15), tmp_path / "not" / "there": ("packages", 10**15)})
    assert "2000000.0 GB are needed" in caught.value.what
    assert str(tmp_path) in str(caught.value.where)
    assert "wheels 1000000.0 GB, packages 1000000.0 GB" in str(caught.value.where)


@pytest.mark.parametrize("cuda", ["12.6", "13.0"])
def test_the_room_that_a_row_takes_is_that_of_one_package_at_a_time(
    cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 11_000_000_000
    monkeypatch.setattr("torchlocks.core.disk.free_bytes", lambda folder: free)
    if row_size(RECIPES, cuda).torch is None:
        pytest.skip("there are no pins for this Python or platform")
    pins = select_pins(read_pins(pin_file(RECIPES, cuda))).values()
    large = announce(Layout(tmp_path), RECIPES, cuda, pins, tmp_path / "envs", Silent())
    assert "torch" in large
    free = 6_000_000_000
    with pytest.raises(DiskFullError):
        announce(Layout(tmp_path), RECIPES, cuda, pins, tmp_path / "envs", Silent())


def test_the_room_for_the_cpu_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchlocks.core.disk.free_bytes", lambda folder: 1_000_000_000)
    with pytest.raises(DiskFullError, match="too small"):
        announce(Layout(tmp_path), RECIPES, "cpu", [pin("torch")], tmp_path / "envs", Silent())
    assert announce(Layout(tmp_path), RECIPES, "cpu", [pin("numpy")], tmp_path / "envs", Silent()) == ()


def test_what_pypi_does_not_have_is_refused_with_what_it_has() -> None:
    with pytest.raises(NoSuchRowError) as caught:
        MATRIX.gpu_environment("11.8", "linux-64", local=True)
    assert "CUDA 12.6, 12.8, 13.0, 13.2" in str(caught.value.where)
    assert "CUDA=13.2 CHANNEL=local" in str(caught.value.fix)
    assert "CUDA=11.8 CHANNEL=conda-forge" in str(caught.value.fix)
    with pytest.raises(NoSuchRowError) as caught:
        MATRIX.local_target("gpu-cu126", "linux-aarch64")
    assert "CUDA 13.0, 13.2" in str(caught.value.where)


def test_a_local_target_runs_on_every_driver_of_its_major() -> None:
    target = MATRIX.local_target("gpu-cu130", "linux-64")
    assert (target.cuda, target.build, target.cuda_version) == ("13.0", "cuda130*", "cuda-version 13.0.*")
    assert target.virtual_packages["__cuda"] == "13.0"
    assert MATRIX.local_target("gpu-cu128", "linux-64").virtual_packages["__cuda"] == "12.0"
    assert MATRIX.local_target("cpu", "linux-64") == MATRIX.target("cpu", "linux-64")
    assert [each.cuda for each in MATRIX.local_targets("linux-aarch64")] == ["13.0", "13.2"]


def test_a_local_row_without_drivers_is_an_error_of_the_matrix(tmp_path: Path) -> None:
    text = (ROOT / "matrix.yml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines(keepends=True) if line.startswith('  "13.0": {linux:'))
    path = tmp_path / "matrix.yml"
    path.write_text(text.replace(line, ""), encoding="utf-8")
    with pytest.raises(MatrixError) as caught:
        load_matrix(path)
    assert "no `drivers` entry for CUDA 13.0" in str(caught.value)

"""Measuring: ratios, curves and reports; that sides take turns; that what is generated is what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bench import growth
from bench.benchmark import BenchOptions, bench
from bench.channel import compress_all, unpack_contents
from bench.growth import _multiply, _write_matrix
from bench.install import extract_all
from bench.lock import Ground
from bench.model import Bench, Check, Curve, Measure, slope, this_machine
from bench.report import as_markdown, write_bench
from bench.run import Command, Side, command, compare, cost_of, seconds_of
from torchlocks.core.errors import BenchError, MissingFileError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.matrix.load import load_matrix

ROOT = Path(__file__).resolve().parents[3]
MEASURE = Measure(
    group="install", name="warm", reference="cp -al", seconds=(0.3, 0.2, 0.4), reference_seconds=(0.1, 0.2, 0.2)
)
CURVE = Curve(
    name="lock", unit="environments", sizes=(1, 10, 100), seconds=(1, 2, 11), stages={"solving": 3.0, "writing": 1.0}
)


@given(st.floats(-2, 3), st.floats(0.01, 100), st.lists(st.floats(1, 10_000), min_size=2, max_size=9, unique_by=round))
def test_the_slope_of_a_power_is_its_exponent(exponent: float, factor: float, sizes: list[float]) -> None:
    found = slope(sizes, [factor * size**exponent for size in sizes])
    assert found == pytest.approx(exponent, abs=1e-6)


def test_a_curve_of_one_size_has_no_exponent() -> None:
    assert Curve(name="a", unit="b", sizes=(1,), seconds=(1,)).exponent is None
    assert slope([3, 3], [1, 2]) is None


def test_memory_has_an_exponent_of_its_own_and_a_row_in_the_report() -> None:
    curve = CURVE.model_copy(update={"memory_mib": (10, 100, 1000)})
    assert curve.memory_exponent == pytest.approx(1)
    assert CURVE.memory_exponent is None
    found = Bench(machine=this_machine(), measures=(), curves=(curve,))
    assert "| lock, memory | 10 MiB | 100 MiB | 1000 MiB | **1.00** |" in as_markdown(found)


def test_the_cost_of_a_command_is_its_time_and_its_memory() -> None:
    seconds, memory = cost_of(command(sys.executable, "-c", "import time; a = bytearray(50 << 20); time.sleep(0.3)"))
    assert seconds >= 0.3
    assert memory > 50


def test_fixed_costs_at_small_sizes_do_not_count() -> None:
    sizes = (1, 3, 10, 30, 100, 300, 1000)
    curve = Curve(name="a", unit="b", sizes=sizes, seconds=tuple(2 + 0.1 * size for size in sizes))
    assert curve.exponent == pytest.approx(0.88, abs=0.05)
    assert slope(sizes, curve.seconds) == pytest.approx(0.55, abs=0.05)


def test_ratios_are_of_medians() -> None:
    assert MEASURE.ratio == pytest.approx(1.5)
    assert MEASURE.spread > 0


def test_sides_take_turns_and_the_place_is_cleaned_before_each() -> None:
    order: list[str] = []
    one = Side(name="one", function=lambda: order.append("one"))
    other = Side(name="other", function=lambda: order.append("other"))
    found = compare("group", one, other, 3, Silent(), lambda: order.append("clean"))
    assert (len(found.seconds), len(found.reference_seconds)) == (3, 3)
    # The first turn warms up and is not counted.
    assert order == ["clean", "one", "clean", "other"] * 4 + ["clean"]
    order.clear()
    compare("group", one, other, 1, Silent(), long=True)
    assert order == ["one", "other"]


def test_memory_is_that_of_all_processes_of_a_command() -> None:
    child = "import time; held = bytearray(60_000_000); time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    heavy = Side(name="a child that holds memory", commands=(command(sys.executable, "-c", parent),))
    light = Side(name="none", commands=(command(sys.executable, "-c", "import time; time.sleep(0.2)"),))
    found = compare("group", heavy, light, 1, Silent())
    assert found.memory_mib is not None
    assert found.reference_memory_mib is not None
    assert found.memory_mib > 57 > found.reference_memory_mib


def test_a_command_that_fails_is_an_error_with_its_last_lines() -> None:
    failing = Side(name="no", commands=(command(sys.executable, "-c", "raise SystemExit('that is why')"),))
    with pytest.raises(BenchError, match="failed with 1") as caught:
        compare("group", failing, failing, 1, Silent())
    assert "that is why" in str(caught.value)
    with pytest.raises(BenchError):
        compare("group", failing, failing, 1, Silent(), long=True)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("how", ["timed", "memory"])
def test_a_measured_make_does_not_take_the_variables_of_the_make_that_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (tmp_path / "Makefile").write_text('all:\n\t@echo "$(origin SNAPSHOT) $(MAKELEVEL)" > found\n')
    monkeypatch.setenv("MAKEFLAGS", "--no-print-directory -- SNAPSHOT=here GROWTH=3")
    monkeypatch.setenv("MAKEOVERRIDES", "${-*-command-variables-*-}")
    monkeypatch.setenv("MAKELEVEL", "1")
    make = command("make", cwd=tmp_path)
    if how == "timed":
        seconds_of(make)
    else:
        compare("group", Side(name="make", commands=(make,)), Side(name="none", function=lambda: None), 1, Silent())
    assert (tmp_path / "found").read_text() == "undefined 0\n"


def test_what_is_measured_caches_its_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    script = "import sys; raise SystemExit(sys.dont_write_bytecode)"
    Side(name="a", commands=(command(sys.executable, "-c", script),)).run()
    cost_of(command(sys.executable, "-c", script))


def test_the_report_has_every_figure_and_lists_what_is_missing(tmp_path: Path) -> None:
    found = Bench(
        machine=this_machine(),
        measures=(MEASURE,),
        curves=(CURVE,),
        slowest_checks=(Check(name="test_a.py::test_b", seconds=1.5),),
        absent=("mamba",),
        left_out=("Growth was not measured.",),
    )
    paths, note = write_bench(found, tmp_path)
    assert note is None
    assert sorted(path.name for path in paths) == ["bench.json", "bench.md", "bench.png", "bench.svg"]
    assert all(path.stat().st_size > 0 for path in paths)
    text = (tmp_path / "bench.md").read_text()
    assert "| warm | 300 ms |" in text
    assert "**1.50**" in text
    assert "solving 3.0 s (75%)" in text
    assert "not installed here: mamba" in text
    assert "Growth was not measured." in text
    assert "`test_a.py::test_b`" in text
    raw = json.loads((tmp_path / "bench.json").read_text())
    assert raw["measures"][0]["ratio"] == pytest.approx(1.5)
    assert Bench.model_validate(raw) == found
    svg = (tmp_path / "bench.svg").read_bytes()
    write_bench(found, tmp_path)
    assert (tmp_path / "bench.svg").read_bytes() == svg, "the same figures give the same plot"


def test_without_matplotlib_there_is_a_note_and_no_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    paths, note = write_bench(Bench(machine=this_machine(), measures=(MEASURE,)), tmp_path)
    assert [path.name for path in paths] == ["bench.json", "bench.md"]
    assert note is not None
    assert "torchlocks[bench]" in note


def test_nothing_measured_is_still_a_report() -> None:
    assert "What things cost" in as_markdown(Bench(machine=this_machine(), measures=()))


def test_without_an_environment_the_error_names_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as caught:
        bench(Layout(tmp_path), BenchOptions(parts=("install",)), Silent())
    assert caught.value.fix == "make env-cpu CHANNEL=local"
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_without_records_locking_is_reported_as_left_out(tmp_path: Path) -> None:
    found = bench(Layout(tmp_path), BenchOptions(parts=("lock", "growth")), Silent())
    assert not found.measures
    assert "SNAPSHOT=DIR" in found.left_out[0]


def small_ground(tmp_path: Path) -> Ground:
    return Ground(checkout=ROOT, place=tmp_path, snapshot=tmp_path)


def test_environments_are_locked_and_checked_on_more_and_more_dask_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    seen: list[tuple[str, ...]] = []

    def seconds(what: Command) -> float:
        assert what.cwd is not None
        seen.append((*what.arguments[1:], *load_matrix(what.cwd / "matrix.yml").environments))
        return float(len(seen))

    monkeypatch.setattr(growth, "seconds_of", seconds)
    monkeypatch.setattr(growth, "WORKERS", (1,))
    lock, check = growth.growth_in_workers(Layout(ROOT), small_ground(tmp_path), 2, Silent())
    assert (lock.sizes, lock.seconds, check.sizes, check.seconds) == ((1,), (2,), (1,), (4,))
    assert (lock.name, check.name) == ("lock 2 environments", "check 2 environments")
    address = seen[0][-3]
    assert address.startswith("tcp://127.0.0.1:")
    on_workers = ("--scheduler", address, "e00000", "e00001")
    assert seen[:2] == [("lock", "--snapshot", str(tmp_path), "--force", *on_workers)] * 2
    assert seen[2:] == [("check", *on_workers)] * 2
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_without_dask_locking_on_workers_is_reported_as_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setattr("bench.lock.ground_of", lambda *_: small_ground(tmp_path))
    for name in ("growth_in_environments", "growth_in_channels"):
        monkeypatch.setattr(growth, name, lambda *_: [])
    found = bench(Layout(tmp_path), BenchOptions(parts=("growth",), snapshot=tmp_path), Silent())
    assert not found.curves
    assert "Dask is not installed" in found.left_out[0]


def test_a_larger_channel_has_the_same_records_and_copies_under_other_names(tmp_path: Path) -> None:
    place = tmp_path / "tiny" / "linux-64"
    place.mkdir(parents=True)
    record = {"name": "numpy", "version": "2.0", "build": "0", "depends": ["python >=3.11"]}
    packages = {"packages": {}, "packages.conda": {"numpy-2.0-0.conda": record}}
    (place / "repodata.json").write_text(json.dumps(packages))
    _multiply(place, tmp_path / "more", 3)
    more = json.loads((tmp_path / "more" / "tiny" / "linux-64" / "repodata.json").read_text())["packages.conda"]
    assert sorted(more) == ["copy1-numpy-2.0-0.conda", "copy2-numpy-2.0-0.conda", "numpy-2.0-0.conda"]
    assert more["numpy-2.0-0.conda"] == record
    assert more["copy2-numpy-2.0-0.conda"]["name"] == "copy2-numpy"
    assert more["copy2-numpy-2.0-0.conda"]["depends"] == ["copy2-python >=3.11"]


def test_a_generated_matrix_is_a_valid_one(tmp_path: Path) -> None:
    layout = Layout(ROOT)
    rows = [{**asdict(row), "variants": {}} for row in load_matrix(layout.matrix).environments.values()][:3]
    _write_matrix(layout, tmp_path, rows, 7)
    made = load_matrix(tmp_path / "matrix.yml")
    assert list(made.environments) == [f"e{number:05}" for number in range(7)]
    assert made.environments["e00003"] == made.environments["e00000"]


def test_the_verb_lists_what_it_can_measure() -> None:
    run = subprocess.run(
        [str(Path(sys.executable).parent / "torchlocks"), "bench", "--help"], capture_output=True, text=True, check=True
    )
    assert "--growth" in run.stdout
    assert "start-up" in run.stdout


def test_the_floor_of_a_channel_compresses_the_contents_of_its_packages(tmp_path: Path) -> None:
    parts = {"pkg-a-1-0.tar": b"files " * 1000, "info-a-1-0.tar": b"records " * 1000}
    with zipfile.ZipFile(tmp_path / "a-1-0.conda", "w") as package:
        package.writestr("metadata.json", "{}")
        for name, data in parts.items():
            package.writestr(f"{name}.zst", zstandard.ZstdCompressor(level=19).compress(data))
    archives = tuple(unpack_contents([tmp_path / "a-1-0.conda"], tmp_path / "contents"))
    assert {path.name: path.read_bytes() for path in archives} == parts
    compress_all(archives, tmp_path / "packed")
    packed = {path.name: path.read_bytes() for path in (tmp_path / "packed").iterdir()}
    assert {name.removesuffix(".zst"): zstandard.decompress(data) for name, data in packed.items()} == parts


def test_the_floor_of_a_cold_install_writes_every_file(tmp_path: Path) -> None:
    import io
    import tarfile
    import zipfile

    import zstandard

    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as members:
        for number in range(20):
            content = bytes([number]) * 1000
            member = tarfile.TarInfo(f"lib/{number}")
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(tmp_path / "a-1-0.conda", "w") as outer:
        outer.writestr("pkg-a-1-0.tar.zst", zstandard.ZstdCompressor().compress(tar.getvalue()))
    extract_all((tmp_path / "a-1-0.conda",), tmp_path / "out")
    found = {path.name: path.stat().st_size for path in (tmp_path / "out" / "a-1-0" / "lib").iterdir()}
    assert found == {str(number): 1000 for number in range(20)}

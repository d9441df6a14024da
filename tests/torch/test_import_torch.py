"""torch imported in fresh processes: where it comes from, what it loads, what it reports."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from torchsuite.expect import Expectation
from torchsuite.imports import ORDERS, Imported, Imports, numpy_complaint
from torchsuite.prefix import Prefix
from torchsuite.tiers import Measure, check


@pytest.fixture(params=ORDERS, ids=lambda first: f"{first}-first")
def imported(request: pytest.FixtureRequest, imports: Imports) -> Imported:
    """An import that worked, in each order; a check of what it saw cannot be made on one that did not."""
    result = imports.get(request.param)
    if result.failure is not None:
        pytest.skip("torch cannot be imported")
    return result


@pytest.mark.parametrize("first", ORDERS)
@check("a library that is missing, too old or loaded twice shows at import, often in one order only")
def test_import(imports: Imports, first: str, measure: Measure) -> None:
    result = imports.get(first)
    if result.failure is not None:
        complaint = result.stderr.strip().splitlines()[-1:] or ["without output"]
        pytest.fail(f"import of {first} first, {result.failure}: {complaint[0]}\n{result.stderr}")
    measure("seconds", round(result.seen["seconds"], 2))


@check("the report contains what the environment reports")
def test_facts(imports: Imports, facts: Callable[[dict[str, object]], None]) -> None:
    seen = imports.get("torch").seen
    if not seen:
        pytest.skip("torch cannot be imported")
    names = ("torch_version", "torch_git", "torch_cuda", "numpy_version", "torch_config", "parallel_info", "cxx11_abi")
    facts({"python_version": ".".join(map(str, seen["python"])), **{name: seen[name] for name in names}})
    assert all(seen[name] is not None for name in names if name != "torch_cuda")


@check("numpy 2 with a torch built for numpy 1 imports with a warning and fails at first use")
def test_numpy_bridge(imported: Imported) -> None:
    seen = imported.seen
    complaint = numpy_complaint(imported.stderr) or seen["bridge_refusal"]
    assert complaint is None, (
        f"numpy {seen['numpy_version']} does not work with torch {seen['torch_version']}: {complaint}"
    )
    assert seen["bridge"] == [0.0, 2.0, 4.0, 6.0, 8.0]


@check("extensions compare the Python that they were built for with what the interpreter calls itself")
def test_python_knows_its_version(imports: Imports, measure: Measure) -> None:
    seen = imports.get("torch").seen
    if not seen:
        pytest.skip("torch cannot be imported")
    measure("sys.version", seen["python_says"])
    assert str(seen["python_says"]).startswith(".".join(map(str, seen["python"])))


@check("torch is the version that the lock names")
def test_torch_version(imports: Imports, expectation: Expectation, measure: Measure) -> None:
    seen = imports.get("torch").seen
    if not seen:
        pytest.skip("torch cannot be imported")
    version = str(seen["torch_version"])
    measure("version", version)
    # torch adds `+cpu` or `.post303` to its own version, depending on who built it; the release is the lock's.
    release = re.match(r"\d+(\.\d+)*", version)
    locked = re.match(r"\d+(\.\d+)*", expectation.torch.version)
    assert release
    assert locked
    assert release[0] == locked[0], f"the lock has {expectation.torch.version}, torch reports {version}"
    _, _, local = version.partition("+")
    if expectation.accelerator == "cpu":
        assert not local.startswith("cu"), f"a CUDA build: {version}"


@check("a CPU environment's torch is a CPU build", accelerator="cpu")
def test_cpu_build(imports: Imports) -> None:
    seen = imports.get("torch").seen
    if not seen:
        pytest.skip("torch cannot be imported")
    assert seen["torch_cuda"] is None, f"torch was built for CUDA {seen['torch_cuda']}"


@check("a torch or numpy from ~/.local, PYTHONPATH or another environment shadows the locked one")
def test_modules_come_from_the_prefix(imported: Imported, prefix: Prefix, expectation: Expectation) -> None:
    assert imported.seen["isolated"]
    site_packages = (prefix.root / prefix.site_packages).resolve()
    for name in ("torch_file", "numpy_file"):
        assert Path(imported.seen[name]).resolve().is_relative_to(site_packages), imported.seen[name]
    root = prefix.root.resolve()
    # torch.ops and torch.classes name a file that is none; the probe itself is the suite's.
    modules = [Path(file) for file in imported.seen["modules"] if Path(file).is_absolute()]
    outside = [str(file) for file in modules if not file.resolve().is_relative_to(root) and file.name != "probe.py"]
    if not expectation.locked and not prefix.records:
        # A virtual environment has the standard library of the Python it was made from, and nothing else of it.
        base = Path(sysconfig.get_path("stdlib")).resolve()
        own = {base / "site-packages", base / "dist-packages"}
        outside = [
            file
            for file in outside
            if not Path(file).resolve().is_relative_to(base) or own & set(Path(file).resolve().parents)
        ]
    assert not outside, f"imported from outside the environment: {', '.join(outside[:5])}"


@check("two copies of libtorch in a process have two sets of operators, and crash")
def test_one_libtorch(imported: Imported, measure: Measure) -> None:
    for name in ("torch_cpu", "torch_python", "c10"):
        found = libraries(imported, rf"^(lib)?{name}\b")
        measure(name, found)
        assert len(found) == 1, f"{name} is loaded {len(found)} times: {', '.join(found)}"


@check("two OpenMP runtimes (libgomp, libiomp5, libomp) in a process abort it, or halve its speed")
def test_one_openmp(imported: Imported, measure: Measure) -> None:
    runtimes = libraries(imported, OPENMP)
    measure("openmp", runtimes)
    if sys.platform == "win32":
        # Microsoft's runtime is part of the compiler's and may be loaded beside Intel's.
        runtimes = [path for path in runtimes if "vcomp" not in path.lower()]
    assert runtimes, "no OpenMP runtime is loaded: torch runs on one core"
    assert len(runtimes) == 1, f"{len(runtimes)} OpenMP runtimes are loaded: {', '.join(runtimes)}"


@check("a second C++ runtime, or an older one from outside, misses symbols")
def test_one_cpp_runtime(imported: Imported, measure: Measure) -> None:
    runtimes = libraries(imported, r"^(libstdc\+\+|libc\+\+)\.")
    measure("cpp_runtime", runtimes)
    assert len(runtimes) <= 1, f"{len(runtimes)} C++ runtimes are loaded: {', '.join(runtimes)}"


@check("a system library that replaces one of the environment is not the one that was locked")
def test_libraries_come_from_the_prefix(imported: Imported, prefix: Prefix, measure: Measure) -> None:
    own = {_interface(path.rpartition("/")[2]) for path in prefix.files if _in_library_folder(path, prefix)}
    root = prefix.root.resolve()
    loaded = [Path(path) for path in imported.seen["libraries"]]
    outside = [path for path in loaded if not path.resolve().is_relative_to(root)]
    measure("libraries", len(loaded))
    measure("of_the_system", sorted(path.name for path in outside))
    stand_ins = [str(path) for path in outside if _interface(path.name) in own]
    assert not stand_ins, f"loaded from outside though the environment has them: {', '.join(stand_ins)}"


@check("results are to be the same tomorrow: a seed gives the same numbers in every process")
def test_seed_across_processes(imports: Imports) -> None:
    torch_first, numpy_first = (imports.get(first).seen for first in ORDERS)
    if not (torch_first and numpy_first):
        pytest.skip("torch cannot be imported")
    assert torch_first["sample"] == numpy_first["sample"]
    assert torch_first["normal"] == numpy_first["normal"]


OPENMP = r"^(lib)?(gomp|omp|iomp5|iomp5md|omp140|vcomp)[-.\d]"


def libraries(imported: Imported, pattern: str) -> list[str]:
    """The real files of loaded libraries whose name matches; links to one file count once."""
    matching = (path for path in imported.seen["libraries"] if re.match(pattern, Path(path).name, re.IGNORECASE))
    return sorted({str(Path(path).resolve()) for path in matching})


def _interface(name: str) -> str:
    """A library's name without what differs between its releases: libstdc++.so.6.0.33 is a libstdc++.so.6."""
    match = re.match(r".*?\.so(\.\d+)?", name)
    return match[0] if match else name.lower()


def _in_library_folder(path: str, prefix: Prefix) -> bool:
    folder = path.rpartition("/")[0]
    site_packages = prefix.site_packages
    return folder in ("lib", "Library/bin", f"{site_packages}/torch/lib") or (
        folder.startswith(f"{site_packages}/") and folder.endswith(".libs")
    )

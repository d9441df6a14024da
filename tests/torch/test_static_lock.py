"""The prefix on disk against the lock. Nothing of the environment is imported here, torch least of all."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from torchsuite import skips
from torchsuite.expect import Expectation
from torchsuite.prefix import Prefix, is_bytecode, is_cuda_file, is_cuda_package
from torchsuite.tiers import Measure, check


@pytest.fixture
def known_lock(expectation: Expectation) -> None:
    """For checks that nothing was added: without a lock, the original files are not known."""
    if not expectation.locked:
        skips.skip(skips.Reason.NO_LOCK, "no lock is known for this environment")


@pytest.fixture
def conda_records(prefix: Prefix, expectation: Expectation) -> None:
    """For checks of package records. Only where no lock promises any may an environment have none."""
    if not expectation.locked and not prefix.records:
        skips.skip(skips.Reason.NOT_CONDA, "no conda environment: no package records to compare with")


@check("the packages installed are those of the lock, in version and build, no more and no fewer")
@pytest.mark.usefixtures("known_lock")
def test_packages_are_those_of_the_lock(prefix: Prefix, expectation: Expectation, measure: Measure) -> None:
    locked = {package.name: (package.version, package.build) for package in expectation.packages}
    installed = {record.name: (record.version, record.build) for record in prefix.records}
    measure("packages", len(installed))
    wrong = [
        f"{name}: the lock has {' '.join(locked.get(name, ['nothing']))},"
        f" the environment has {' '.join(installed.get(name, ['nothing']))}"
        for name in sorted(locked.keys() | installed.keys())
        if locked.get(name) != installed.get(name)
    ]
    assert not wrong, "; ".join(wrong)


@check("two records of one package mean that an update was left half done")
@pytest.mark.usefixtures("conda_records")
def test_one_record_a_package(prefix: Prefix) -> None:
    twice = [name for name, count in Counter(record.name for record in prefix.records).items() if count > 1]
    assert not twice, f"more than one conda-meta record for {', '.join(twice)}"


@check("a record's file name, which tools read without opening it, agrees with what is in it")
@pytest.mark.usefixtures("conda_records")
def test_record_names(prefix: Prefix) -> None:
    wrong = [
        record.source
        for record in prefix.records
        if record.source != f"{record.name}-{record.version}-{record.build}.json"
    ]
    assert not wrong, f"records that do not match their name: {', '.join(wrong)}"


@check("an interrupted installation, a full disk or a clean-up by hand leaves files missing")
@pytest.mark.usefixtures("conda_records")
def test_no_recorded_file_is_missing(prefix: Prefix, measure: Measure) -> None:
    recorded = [file.path for record in prefix.records for file in record.files if not is_bytecode(file.path)]
    measure("files", len(recorded))
    missing = [path for path in recorded if not _there(prefix.root / path)]
    assert not missing, _some(missing, "missing")


@check("pip install over a conda package leaves a torch that no record describes")
@pytest.mark.usefixtures("conda_records")
def test_torch_files_are_those_of_the_package(prefix: Prefix, expectation: Expectation, measure: Measure) -> None:
    torch_files = {
        file.path: file.size for record in prefix.records if record.name in _TORCH_PACKAGES for file in record.files
    }
    if not expectation.locked and not torch_files:
        skips.skip(skips.Reason.NOT_CONDA, "torch is of no conda package here")
    folder = f"{prefix.site_packages}/torch/"
    strangers = [path for path in prefix.files if path.startswith(folder) and path not in prefix.owners]
    assert not strangers, _some(strangers, "not of any package")
    changed = [
        path
        for path, size in torch_files.items()
        if size is not None and not is_bytecode(path) and _there(prefix.root / path)
        if (prefix.root / path).stat().st_size != size
    ]
    measure("torch_files", len(torch_files))
    assert not changed, _some(changed, "not of the recorded size")


@check("what pip installed beside the lock is in no lock, and may replace what is")
@pytest.mark.usefixtures("known_lock")
def test_nothing_installed_beside_the_lock(prefix: Prefix) -> None:
    folder = re.escape(prefix.site_packages)
    metadata = re.compile(rf"^{folder}/([^/]+)\.(dist-info|egg-info|egg-link)(/METADATA|/PKG-INFO)?$")
    strangers = [match[1] for path in prefix.files if (match := metadata.match(path)) and path not in prefix.owners]
    assert not strangers, f"installed, but not of the lock: {', '.join(sorted(strangers))}"


@check("the loader finds a library by its name in the environment, whoever put it there: a second OpenMP, another CUDA")
@pytest.mark.usefixtures("known_lock")
def test_no_library_of_nobody(prefix: Prefix, measure: Measure) -> None:
    libraries = [path for path in prefix.files if _LIBRARY.search(path)]
    measure("libraries", len(libraries))
    strangers = [path for path in libraries if path not in prefix.owners]
    assert not strangers, _some(strangers, "not of any package")


@check("a second torch in the environment shadows the locked one, or takes its turn by chance")
def test_one_torch(prefix: Prefix) -> None:
    folder = re.escape(prefix.site_packages)
    metadata = re.compile(rf"^{folder}/(torch-[^/]+\.dist-info)/METADATA$")
    distributions = sorted({match[1] for path in prefix.files if (match := metadata.match(path))})
    assert len(distributions) <= 1, f"more than one torch: {', '.join(distributions)}"
    module = re.compile(r"(^|/)torch(\.py|/__init__\.py|\.[^/]*\.(so|pyd))$")
    places = [path for path in prefix.files if module.search(path) and _is_importable(path, prefix)]
    assert places == [f"{prefix.site_packages}/torch/__init__.py"], f"torch is to be found at {', '.join(places)}"


@check("a .pth file or a sitecustomize runs code, or adds folders, in every Python that starts")
@pytest.mark.usefixtures("known_lock")
def test_nothing_hooks_into_startup(prefix: Prefix) -> None:
    hook = re.compile(rf"^{re.escape(prefix.site_packages)}/([^/]+\.pth|(site|user)customize(\.py|/__init__\.py))$")
    strangers = [path for path in prefix.files if hook.match(path) and path not in prefix.owners]
    assert not strangers, _some(strangers, "not of any package")


@check("CUDA slips into CPU environments through a solver's assumptions", accelerator="cpu")
def test_no_cuda_package(prefix: Prefix) -> None:
    found = [f"{record.name} {record.version}" for record in prefix.records if is_cuda_package(record.name)]
    assert not found, f"CUDA packages in a CPU environment: {', '.join(found)}"
    builds = [f"{record.name} {record.build}" for record in prefix.records if re.match(r"^cuda\d*", record.build)]
    assert not builds, f"CUDA builds in a CPU environment: {', '.join(builds)}"


@check(
    "a CUDA library of another size than its package's was replaced, or cut short by a full disk", accelerator="cuda"
)
@pytest.mark.usefixtures("conda_records")
def test_cuda_files_are_those_of_the_packages(prefix: Prefix, measure: Measure) -> None:
    sizes = {file.path: file.size for record in prefix.records for file in record.files if is_cuda_file(file.path)}
    measure("cuda_files", len(sizes))
    changed = [
        path
        for path, size in sizes.items()
        if size is not None and _there(prefix.root / path) and (prefix.root / path).stat().st_size != size
    ]
    assert not changed, _some(changed, "not of the recorded size")


@check("a stray CUDA library is gigabytes for nothing, and is loaded where one is looked for", accelerator="cpu")
def test_no_cuda_file(prefix: Prefix, measure: Measure) -> None:
    found = [path for path in prefix.files if is_cuda_file(path)]
    measure("files", len(prefix.files))
    assert not found, _some(found, "CUDA in a CPU environment")


@check("the interpreter that runs is the environment's")
def test_python_is_of_the_prefix(prefix: Prefix, expectation: Expectation, measure: Measure) -> None:
    measure("executable", sys.executable)
    assert Path(sys.prefix).resolve() == prefix.root.resolve()
    if expectation.locked or prefix.records:
        assert Path(sys.base_prefix).resolve() == prefix.root.resolve(), "the environment leans on another Python"
    version = ".".join(map(str, sys.version_info[:3]))
    if expectation.python.version != version:
        pytest.fail(f"the lock has Python {expectation.python.version}, the environment runs {version}")


#: What a loader loads, by its name.
_LIBRARY = re.compile(r"\.(so|dylib|dll|pyd)(\.\d+)*$", re.IGNORECASE)

#: The packages that torch's own files come from, by channel and platform.
_TORCH_PACKAGES = ("pytorch", "libtorch", "torch")


def _there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _is_importable(path: str, prefix: Prefix) -> bool:
    """Whether Python would find a module at this path: in a folder of its search path."""
    top = path.removesuffix("/__init__.py").rpartition("/")[0]
    library = prefix.site_packages.rpartition("/")[0]
    return top in (prefix.site_packages, library, f"{library}/lib-dynload")


def _some(paths: list[str], what: str) -> str:
    shown = ", ".join(sorted(paths)[:5])
    return f"{len(paths)} files {what}: {shown}{' …' if len(paths) > 5 else ''}"

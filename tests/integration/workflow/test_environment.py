"""`make env-cpu`, whole: what it makes, that it does nothing twice, and what is left when it fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import LAYOUT, Checkout, copy_of_checkout
from torchlocks.host.detect import host_platform
from torchlocks.install.provenance import read_provenance
from torchlocks.lockfile.formats import read_lock

Copy = Callable[[], Checkout]

not_always = pytest.mark.skipif(not os.environ.get("TORCHLOCKS_SLOW"), reason="only with TORCHLOCKS_SLOW=1")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=LAYOUT.root, capture_output=True, text=True, timeout=900, check=False
    )


def made(checkout: Checkout) -> Checkout:
    run = checkout.run("env", "cpu", "--channel", "local")
    assert run.returncode == 0, run.stderr
    return checkout


@pytest.fixture
def ready(copy_checkout: Copy) -> Checkout:
    """A copy in which the environment is made, for one test to break."""
    return made(copy_checkout())


@pytest.fixture(scope="module")
def settled(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which the environment is made, for tests that leave it as it is, or restore what they change."""
    return made(copy_of_checkout(tmp_path_factory.mktemp("settled") / "a checkout"))


@contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    """Change a file of the shared copy for a while."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")


def identity(checkout: Checkout) -> tuple[str, int]:
    """What tells one installation from another."""
    found = read_provenance(checkout.prefix)
    assert found is not None
    return found.install_id, checkout.prefix.stat().st_ino


def works(checkout: Checkout) -> bool:
    return checkout.run("run", "cpu", "python", "-c", "import numpy, sympy").returncode == 0


def test_the_environment_is_verified_and_records_its_origin(environment: Path) -> None:
    found = read_provenance(environment)
    assert found is not None
    assert found.verified
    assert found.lock_sha256
    assert found.tools
    report = json.loads((LAYOUT.reports / "cpu.json").read_text(encoding="utf-8"))
    assert report["lock_sha256"] == found.lock_sha256
    assert {check["outcome"] for check in report["checks"]} <= {"passed", "skipped"}
    assert len([check for check in report["checks"] if check["outcome"] == "passed"]) > 80
    assert (LAYOUT.reports / "cpu.xml").read_text(encoding="utf-8").startswith("<?xml")


def test_again_does_nothing_and_reports_it(settled: Checkout) -> None:
    before = identity(settled)
    run = settled.run("env", "cpu", "--channel", "local")
    assert run.returncode == 0
    assert "Nothing to do" in run.stdout
    assert identity(settled) == before


def test_times_do_not_count_and_contents_do(ready: Checkout) -> None:
    before = identity(ready)
    for name in ("environment-cpu.yml", "matrix.yml", "locks/cpu/conda-lock.yml"):
        os.utime(ready.root / name)
    assert "Nothing to do" in ready.run("env", "cpu", "--channel", "local").stdout
    # The same packages: verified again, and not installed again.
    with (ready.root / "environment-cpu.yml").open("a") as template:
        template.write("# a comment\n")
    # The short set is no verification: the next run is one.
    run = ready.run("env", "cpu", "--channel", "local", "--quick")
    assert run.returncode == 0
    assert "changed since it was made: environment-cpu.yml." in run.stderr
    assert "no full verification" in run.stdout
    quick = read_provenance(ready.prefix)
    assert quick is not None
    assert quick.verified is None
    run = ready.run("env", "cpu", "--channel", "local")
    assert run.returncode == 0
    assert "Verifying" in run.stderr
    assert identity(ready) == before
    assert "Nothing to do" in ready.run("env", "cpu", "--channel", "local").stdout
    assert ready.run("env", "cpu", "--channel", "local", "--force").returncode == 0
    assert identity(ready) != before


def test_auto_reports_first_the_reason_and_last_the_differences(copy_checkout: Copy) -> None:
    checkout = copy_checkout()
    run = checkout.run("env", "cpu")
    assert run.returncode == 0, run.stderr
    (warning,) = [line for line in run.stderr.splitlines() if "conda-forge could not be used" in line]
    assert run.stderr.index(warning) < run.stderr.index("Installing")
    committed = len(read_lock(checkout.root / "locks" / "cpu" / "conda-lock.yml").packages[host_platform()])
    # On the terminal, lines are folded.
    said = " ".join(run.stdout.split())
    assert said.count("not the committed lock") == 1
    assert "torch 2." in said.partition("not the committed lock")[2]
    assert f"packages instead of {committed}" in said
    report = json.loads((checkout.root / "reports" / "cpu.json").read_text(encoding="utf-8"))
    assert report["differs"].startswith("not the committed lock: torch")
    page = (checkout.root / "reports" / "cpu.html").read_text(encoding="utf-8")
    assert "Not the committed lock" in page[: page.index("What was verified")]
    found = read_provenance(checkout.prefix)
    assert found is not None
    assert found.channel == "auto"
    assert found.channels_used == ((checkout.root / "build" / "channel").as_uri(),)


def test_conda_forge_alone_fails_in_seconds_and_leaves_what_is_there(settled: Checkout) -> None:
    before = identity(settled)
    started = time.monotonic()
    run = settled.run("env", "cpu", "--channel", "conda-forge")
    assert run.returncode == 30
    assert "conda-forge" in run.stderr
    assert "--channel local" in run.stderr
    # The copy's path has one: said before anything is looked for.
    assert run.stderr.index("has a space") < run.stderr.index("Looking for")
    assert time.monotonic() - started < 60
    assert identity(settled) == before
    assert works(settled)


def test_a_template_with_a_typo_leaves_what_is_there(settled: Checkout) -> None:
    before = identity(settled)
    template = settled.root / "environment-cpu.yml"
    with edited(template, "{{ pytorch }}", "{{ pytroch }}"):
        run = settled.run("env", "cpu", "--channel", "local")
    assert run.returncode == 12
    assert "'pytroch' is undefined" in run.stderr
    assert f"{template}:" in run.stderr
    assert identity(settled) == before
    assert settled.run("env", "cpu", "--channel", "local").returncode == 0


def test_a_package_that_does_not_exist_is_the_solvers_to_explain(settled: Checkout) -> None:
    before = identity(settled)
    with edited(settled.root / "environment-cpu.yml", "dependencies:\n", "dependencies:\n  - no-such-package\n"):
        run = settled.run("env", "cpu", "--channel", "local")
    assert run.returncode == 20
    assert "no-such-package" in run.stderr
    assert identity(settled) == before


def test_a_broken_recipe_is_named_and_rebuilt_by_the_next_run(settled: Checkout) -> None:
    before = identity(settled)
    recipe = settled.root / "recipes" / "local" / "filelock" / "recipe.yaml"
    with edited(recipe, "package:", "pakcage:"):
        run = settled.run("env", "cpu", "--channel", "local")
    assert run.returncode == 40
    assert str(recipe) in run.stderr
    assert identity(settled) == before
    assert settled.run("env", "cpu", "--channel", "local").returncode == 0
    assert works(settled)


def test_a_deleted_package_of_the_channel_is_built_again(ready: Checkout) -> None:
    (package,) = (ready.root / "build" / "channel").glob("*/iniconfig-*")
    package.unlink()
    with (ready.root / "matrix.yml").open("a") as matrix:
        matrix.write("# a comment\n")
    run = ready.run("env", "cpu", "--channel", "local")
    assert run.returncode == 0, run.stderr
    assert package.is_file()


def test_a_corrupted_wheel_is_noticed(copy_checkout: Copy) -> None:
    checkout = copy_checkout()
    (wheel,) = (checkout.root / "build" / "wheels").glob("iniconfig-*.whl")
    damaged = wheel.read_bytes()[:-100] + b"x" * 100
    wheel.unlink()
    wheel.write_bytes(damaged)
    (package,) = (checkout.root / "build" / "channel").glob("*/iniconfig-*")
    package.unlink()
    run = checkout.run("env", "cpu", "--channel", "local")
    # No index can be asked here, so the wheel cannot be had again, and nothing is built from a wrong one.
    assert run.returncode in (31, 41), run.stderr
    assert "iniconfig" in run.stderr
    assert not checkout.prefix.exists()


@pytest.mark.parametrize("after", [2.0, *(pytest.param(after, marks=not_always) for after in (0.5, 4.0))])
def test_ctrl_c_leaves_nothing_half_made(copy_checkout: Copy, after: float) -> None:
    checkout = copy_checkout()
    code, said = checkout.interrupt("env", "cpu", "--channel", "local", after=after)
    assert "Traceback" not in said
    assert code in (0, 130), said
    found = read_provenance(checkout.prefix)
    assert found is not None or not checkout.prefix.exists(), "the environment is whole, or it is not there"
    run = checkout.run("env", "cpu", "--channel", "local")
    assert run.returncode == 0, run.stderr
    assert checkout.leftovers() == []
    assert works(checkout)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 60 MB."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here (it takes root)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_reported_and_the_next_run_succeeds(copy_checkout: Copy, small_disk: Path) -> None:
    checkout = copy_checkout()
    # Copies, not links: the environment is on a disk of its own, and the disk is small.
    (checkout.root / "envs").symlink_to(small_disk)
    run = checkout.run("env", "cpu", "--channel", "local")
    assert run.returncode == 33, run.stderr
    assert "fix:" in run.stderr
    assert not (small_disk / "cpu").exists()
    (checkout.root / "envs").unlink()
    run = checkout.run("env", "cpu", "--channel", "local")
    assert run.returncode == 0, run.stderr


def test_a_failing_check_fails_the_command_and_names_itself(ready: Checkout) -> None:
    check = ready.root / "tests" / "torch" / "test_static_lock.py"
    text = check.read_text(encoding="utf-8")
    name = next(line.split("(")[0].removeprefix("def ") for line in text.splitlines() if line.startswith("def test_"))
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f"def {name}("))
    while not lines[at].rstrip().endswith(":"):
        at += 1
    lines.insert(at + 1, "    raise AssertionError('sabotaged')")
    check.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = ready.run("env", "cpu", "--channel", "local")
    assert run.returncode == 60
    assert name in run.stdout + run.stderr
    found = read_provenance(ready.prefix)
    assert found is not None
    assert found.verified is False
    assert "failed its verification" in ready.run("run", "cpu", "true").stderr
    again = ready.run("env", "cpu", "--channel", "local")
    assert again.returncode == 60, "an environment that failed is not taken for ready"


def test_activation_is_real(settled: Checkout) -> None:
    script = settled.prefix / "etc" / "conda" / "activate.d" / "hello.sh"
    script.parent.mkdir(parents=True)
    script.write_text("export HELLO_FROM_ACTIVATION=yes\n", encoding="utf-8")
    try:
        run = settled.run("run", "cpu", "echo $HELLO_FROM_ACTIVATION $CONDA_PREFIX; which python")
    finally:
        shutil.rmtree(script.parent)
    assert run.stdout.split("\n")[:2] == [f"yes {settled.prefix}", str(settled.prefix / "bin" / "python")]
    assert settled.run("run", "cpu", "exit 7").returncode == 7


def test_rollback_returns_to_the_environment_before(ready: Checkout) -> None:
    first = identity(ready)[0]
    assert ready.run("env", "cpu", "--channel", "local", "--force").returncode == 0
    assert identity(ready)[0] != first
    assert ready.run("rollback", "cpu").returncode == 0
    assert identity(ready)[0] == first
    assert works(ready)


def test_a_gpu_environment_without_its_channel_lists_the_choices(settled: Checkout) -> None:
    run = settled.run("env", "gpu", "--cuda", "11.8", CONDA_SUBDIR="linux-64")
    assert run.returncode == 30
    for words in (
        "The lock of gpu-cu118 is valid",
        "conda-forge",
        "--mirror URL",
        "conda-linux-64.lock",
        "torchlocks env cpu",
    ):
        assert words in run.stderr
    assert not (settled.root / "envs" / "gpu-cu118").exists()


def test_offline_names_every_package_that_is_missing(settled: Checkout, tmp_path: Path) -> None:
    cache = {"TORCHLOCKS_CACHE": str(tmp_path / "cache"), "CONDA_SUBDIR": "linux-64"}
    run = settled.run("env", "cpu", "--channel", "conda-forge", "--offline", **cache)
    assert run.returncode == 30
    packages = read_lock(settled.root / "locks" / "cpu" / "conda-lock.yml").packages["linux-64"]
    assert run.stderr.count("  missing: ") == len(packages)
    assert all(f"  missing: {package.file_name}" in run.stderr for package in packages)


def test_cuda_auto_without_a_driver_names_the_versions(settled: Checkout) -> None:
    run = settled.run("env", "gpu", "--cuda", "auto", CONDA_OVERRIDE_CUDA="", CONDA_SUBDIR="linux-64")
    assert run.returncode == 11
    assert "11.8" in run.stderr


def test_an_environment_that_is_not_there_is_named(settled: Checkout) -> None:
    run = settled.run("run", "gpu-cu118", "true")
    assert run.returncode == 14
    assert "torchlocks env gpu --cuda 11.8" in run.stderr


def test_make_alone_prints_help_and_changes_nothing() -> None:
    run = make()
    assert run.returncode == 0
    for verb in ("env-cpu", "env-gpu", "lock", "check", "test"):
        assert f"  {verb} " in run.stdout


def test_make_passes_quotes_on(environment: Path) -> None:
    run = make("-s", "run", "ENV=cpu", """CMD=python -c 'print("it" + chr(39) + "s", 6 * 7)'""")
    assert run.stdout == "it's 42\n", run.stderr


def test_cleaning_is_complete(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    shutil.copy(LAYOUT.root / "Makefile", root)
    for name in (".venv", "envs", "build", "reports"):
        (root / name).mkdir()
    subprocess.run(["make", "clean"], cwd=root, check=True, capture_output=True)
    assert [path.name for path in root.iterdir()] == ["Makefile"]

"""make's variables: quoted for the shell whatever is in them, and refused where the verb does not take them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VALUE = 'a b\'s "c" $HOME $(touch ran) `touch ran` ;touch ran #x \\n *'

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile and tools that only print their arguments, one a line; nothing is installed."""
    folder = tmp_path / "a checkout"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "scripts" / "make_variables.py", folder / "scripts")
    (folder / "scripts" / "bootstrap.py").write_text("import sys\nprint('bootstrap', *sys.argv[1:])\n")
    (folder / "requirements.txt").write_text("")
    (folder / "requirements-dev.txt").write_text("")
    (folder / "pyproject.toml").write_text("")
    made = folder / ".venv"
    (made / "bin").mkdir(parents=True)
    for name in ("torchlocks", "pytest", "ruff", "mypy", "lint-imports", "zizmor"):
        tool = made / "bin" / name
        tool.write_text(
            "#!/bin/sh\nprintf '%s\\n' \"$@\"\n" + ('echo "$TORCHLOCKS_SNAPSHOT"\n' if name == "pytest" else "")
        )
        tool.chmod(0o755)
    for name in ("torchlocks-made-from", "torchlocks-made-from-dev"):
        (made / name).write_text("")
    return folder


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**inherited, "HOME": "/home/me", **environment},
    )


@pytest.mark.parametrize(
    ("verb", "variable", "others"),
    [
        ("run", "CMD", ("ENV=cpu",)),
        ("run", "ENV", ("CMD=x",)),
        ("env-gpu", "CUDA", ()),
        ("env-cpu", "CHANNEL", ()),
        ("env-cpu", "MIRROR", ()),
        ("render", "PLATFORM", ()),
        ("lock", "SNAPSHOT", ()),
        ("lock", "AS_OF", ()),
        ("lock", "SCHEDULER", ()),
        ("lock", "CONDA_EXE", ()),
        ("why", "PKG", ()),
        ("diff", "A", ("B=x",)),
        ("diff", "B", ("A=x",)),
        ("bundle", "FILE", ()),
        ("image", "BASE", ("ENV=cpu",)),
        ("export", "FORMAT", ("ENV=cpu",)),
        ("sign", "KEY", ("ENV=cpu",)),
        ("check", "ENV", ()),
        ("check", "SCHEDULER", ()),
        ("channel", "CUDA", ()),
    ],
)
def test_a_value_arrives_as_it_was_typed(checkout: Path, verb: str, variable: str, others: tuple[str, ...]) -> None:
    run = make(checkout, verb, f"{variable}={VALUE}", *others)
    assert run.returncode == 0, run.stderr
    assert VALUE in run.stdout.splitlines()
    assert not (checkout / "ran").exists()
    if variable in ("CMD", "CUDA"):
        environment = make(checkout, verb, *others, **{variable: VALUE})
        assert VALUE in environment.stdout.splitlines()
        assert not (checkout / "ran").exists()


def test_functions_of_make_in_a_value_are_not_called(checkout: Path) -> None:
    for verb, variable in (("run", "CMD"), ("lock", "SNAPSHOT"), ("why", "PKG")):
        run = make(checkout, verb, f"{variable}=$(shell touch ran)", *(["ENV=cpu"] if verb == "run" else []))
        assert "$(shell touch ran)" in run.stdout.splitlines()
        assert not (checkout / "ran").exists()


def test_a_value_of_several_lines_is_refused(checkout: Path) -> None:
    run = make(checkout, "run", "ENV=cpu", "CMD=x\ntouch ran")
    assert run.returncode != 0
    assert not (checkout / "ran").exists()


def test_what_the_shell_did_for_paths_and_lists_still_holds(checkout: Path) -> None:
    assert "/home/me/snap shot" in make(checkout, "lock", "SNAPSHOT=~/snap shot").stdout.splitlines()
    assert {"numpy", "scipy"} <= set(make(checkout, "update", "PKG=numpy scipy").stdout.splitlines())
    assert str(checkout / "my snapshot") in make(checkout, "test-unit", "SNAPSHOT=my snapshot").stdout.splitlines()
    assert "/elsewhere" in make(checkout, "test-unit", "SNAPSHOT=/elsewhere").stdout.splitlines()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("env-cpu", "PLATFORM=osx-arm64"), "does not take PLATFORM"),
        (("render", "CUDA=11.8"), "does not take CUDA"),
        (("env-gpu", "CDUA=11.8"), "Did you mean CUDA"),
        (("env-gpu", "cuda=11.8"), "Did you mean CUDA"),
        (("lock", "PLATFROM=linux-64"), "Did you mean PLATFORM"),
        (("doctor", "X.y=1"), "no variable"),
    ],
)
def test_a_variable_that_the_verb_does_not_take_is_refused(
    checkout: Path, arguments: tuple[str, ...], said: str
) -> None:
    run = make(checkout, *arguments)
    assert run.returncode != 0
    assert said in run.stderr
    assert not run.stdout
    assert not (checkout / "ran").exists()


def test_a_variable_that_one_of_two_verbs_takes_is_taken(checkout: Path) -> None:
    assert make(checkout, "check", "render", "PLATFORM=linux-64").returncode == 0
    other = make(checkout, "render", "PYTHON=python3")
    assert other.returncode == 0, other.stderr
    assert other.stdout.splitlines() == ["bootstrap .venv", "render"]


@pytest.mark.parametrize(
    ("arguments", "fetches"),
    [
        (("env-cpu", "CHANNEL=local"), True),
        (("env-cpu",), False),
        (("env-cpu", "CHANNEL=local", "OFFLINE=1"), False),
        (("env-gpu", "CHANNEL=local", "CUDA=12.6"), False),
    ],
)
def test_wheels_are_fetched_beside_the_tools_if_they_are_what_is_installed(
    checkout: Path, arguments: tuple[str, ...], fetches: bool
) -> None:
    (checkout / ".venv" / "torchlocks-made-from").unlink()
    assert make(checkout, *arguments).stdout.splitlines()[0].split() == [
        *("bootstrap", ".venv"),
        *(["--wheels"] if fetches else []),
    ]


def test_every_variable_in_the_comment_of_a_verb_is_taken(checkout: Path) -> None:
    comments = re.findall(r"^([a-z-]+):.*?## (.*)$", (checkout / "Makefile").read_text(), re.MULTILINE)
    takes = {verb: sorted(set(re.findall(r"\b([A-Z][A-Z_]*)=", comment))) for verb, comment in comments}
    assert takes["env-cpu"] == ["CHANNEL", "FORCE", "MIRROR", "OFFLINE", "PY", "QUICK", "TORCH"]
    for verb, names in takes.items():
        run = make(checkout, "-n", verb, *(f"{name}=x" for name in names))
        assert run.returncode == 0, run.stderr


def test_no_python_starts_to_accept_a_variable(checkout: Path) -> None:
    # What is not there cannot start.
    assert make(checkout, "env-cpu", "CHANNEL=local", PYTHON="/no/python").returncode == 0
    (checkout / "scripts" / "make_variables.py").unlink()
    assert make(checkout, "env-cpu", "CHANNEL=local").returncode == 0


@pytest.mark.parametrize("failing", ["zizmor", "ruff", "lint-imports", "mypy", "pytest", None])
def test_tests_fail_where_a_linter_or_a_test_does(checkout: Path, failing: str | None) -> None:
    if failing is not None:
        (checkout / ".venv" / "bin" / failing).write_text(f"#!/bin/sh\necho {failing} is not content; exit 3\n")
    run = make(checkout, "test")
    assert (run.returncode == 0) == (failing is None), run.stderr
    assert failing is None or f"{failing} is not content" in run.stdout
    # What takes seconds is known before the tests run for minutes.
    assert ("worksteal" in run.stdout) == (failing in ("mypy", None))


@pytest.mark.parametrize("more", [(), ("ENV=cpu",)])
def test_from_another_folder_the_checkout_is_named(checkout: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = make(elsewhere, "-f", "../a checkout/Makefile", "doctor", *more)
    assert done.returncode == 2
    assert "make -C" in done.stderr
    assert "No such file" not in done.stderr
    assert not list(elsewhere.iterdir())

"""What the command line answers before it imports anything: that there is nothing to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click.testing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchlocks.cli.commands.root import root
from torchlocks.cli.overview import overview, sentence
from torchlocks.cli.quick import quick_status
from torchlocks.cli.verbs import HIDDEN, VERBS, VERSION
from torchlocks.host.detect import host_platform
from torchlocks.install.provenance import Provenance, mark_verified, write_provenance
from torchlocks.install.up_to_date import (
    RECORD,
    inputs_of,
    nothing_to_do,
    quick_answer,
    read_record,
    reason_to_work,
)

ASKED = ["env", "cpu", "--channel", "local"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with an environment that was made from it and verified; the current folder."""
    for name in ("TORCHLOCKS_ROOT", "TORCHLOCKS_HOME", "CONDA_SUBDIR"):
        monkeypatch.delenv(name, raising=False)
    root = (tmp_path / "a checkout").resolve()
    for name in ("matrix.yml", "environment-cpu.yml", "locks/cpu/conda-lock.yml", "tests/torch/test_a.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("# here")
    prefix = root / "envs" / "cpu"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "conda-meta" / "python-3.11-0.json").write_text("{}")
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").symlink_to(sys.executable)
    write_provenance(
        prefix,
        Provenance(
            install_id="1",
            prefix=str(prefix),
            name="cpu",
            lock_sha256="0" * 64,
            lock_kind="conda-lock",
            lock_name="conda-lock.yml",
            platform=host_platform(),
            channel="local",
            channels_used=("file:///a",),
            records=("python-3.11-0",),
            inputs=inputs_of(str(root), "cpu", host_platform(), "local"),
            installed_at="2026-01-01T00:00:00+00:00",
        ),
    )
    mark_verified(prefix, True, "reports/cpu.json")
    monkeypatch.chdir(root)
    return root


def test_what_is_up_to_date_is_reported_as_such(checkout: Path) -> None:
    answer = quick_answer(ASKED)
    assert answer is not None
    assert "cpu is up to date: made from the local channel" in answer
    assert quick_answer([*ASKED, "--mirror", "https://mirror.example", "--offline"]) == answer
    assert nothing_to_do(str(checkout), str(checkout / "envs/cpu"), "cpu", "local", host_platform()) == answer


@pytest.mark.parametrize("name", ["matrix.yml", "environment-cpu.yml", "locks/cpu/conda-lock.yml", "tests/torch/b.py"])
def test_a_changed_input_is_work_and_is_named(checkout: Path, name: str) -> None:
    os.utime(checkout / "matrix.yml", (1, 1))
    assert quick_answer(ASKED) is not None
    (checkout / name).write_text("# there")
    assert quick_answer(ASKED) is None
    prefix = str(checkout / "envs/cpu")
    record = read_record(prefix)
    assert record is not None
    reason = reason_to_work(record, prefix, inputs_of(str(checkout), "cpu", host_platform(), "local"))
    assert reason.startswith(f"changed since it was made: {name}")


@pytest.mark.parametrize("kind", ["FIFO", "device"])
@pytest.mark.parametrize("name", ["matrix.yml", "locks/cpu/conda-lock.yml", "envs/cpu/conda-meta/torchlocks"])
def test_an_input_that_is_no_file_is_work_at_once(checkout: Path, name: str, kind: str) -> None:
    (checkout / name).unlink()
    if kind == "FIFO":
        os.mkfifo(checkout / name)
    else:
        (checkout / name).symlink_to("/dev/zero")
    assert quick_answer(ASKED) is None
    assert name not in inputs_of(str(checkout), "cpu", host_platform(), "local")


def test_a_record_that_is_nested_too_deeply_is_none(checkout: Path) -> None:
    (checkout / "envs/cpu/conda-meta/torchlocks").write_text("[" * 100_000)
    assert read_record(str(checkout / "envs/cpu")) is None
    assert quick_answer(ASKED) is None


def test_so_is_an_environment_that_is_not_as_it_was_made(checkout: Path) -> None:
    (checkout / "envs/cpu/conda-meta/numpy-2-0.json").write_text("{}")
    assert quick_answer(ASKED) is None


def test_so_is_one_that_failed_or_was_moved(checkout: Path) -> None:
    prefix = checkout / "envs" / "cpu"
    mark_verified(prefix, False, "reports/cpu.json")
    assert quick_answer(ASKED) is None
    mark_verified(prefix, True, "reports/cpu.json")
    assert quick_answer(ASKED) is not None
    prefix.rename(checkout / "envs" / "old")
    (checkout / "envs" / "old").rename(prefix)
    record = json.loads((prefix / RECORD).read_text())
    (prefix / RECORD).write_text(json.dumps({**record, "prefix": "/elsewhere"}))
    assert quick_answer(ASKED) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["env", "cpu"],
        ["env", "gpu", "--cuda", "11.8"],
        ["env", "cpu", "--channel"],
        ["env", "cpu", "--channel", "nonsense"],
        [*ASKED, "--force"],
        [*ASKED, "--json"],
        ["--help"],
        ["check"],
        [],
    ],
)
def test_all_else_is_left_to_the_command_line(checkout: Path, arguments: list[str]) -> None:
    assert quick_answer(arguments) is None


def test_another_platform_or_place_is_not_answered_for(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_SUBDIR", "osx-arm64")
    assert quick_answer(ASKED) is None
    monkeypatch.delenv("CONDA_SUBDIR")
    monkeypatch.setenv("TORCHLOCKS_HOME", str(checkout / "elsewhere"))
    assert quick_answer(ASKED) is None
    monkeypatch.delenv("TORCHLOCKS_HOME")
    monkeypatch.chdir(checkout / "envs")
    assert quick_answer(ASKED) is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from(["schema", "verified", "platform", "records", "channels_used", "prefix", "verified_at"]),
)
def test_a_damaged_record_is_never_taken_for_current_and_never_an_error(
    checkout: Path, value: object, key: str
) -> None:
    path = checkout / "envs" / "cpu" / RECORD
    before = path.read_text()
    try:
        record = {**json.loads(before), key: value}
        path.write_text(json.dumps(record))
        answer = quick_answer(ASKED)
        # These two are told, not judged.
        assert answer is None or key in ("channels_used", "verified_at") or record == json.loads(before)
        path.write_text(json.dumps(value))
        assert quick_answer(ASKED) is None
    finally:
        path.write_text(before)


def test_nothing_heavy_is_imported_to_say_so(checkout: Path) -> None:
    heavy = {
        "click",
        "dataclasses",
        "pathlib",
        "typing",
        "subprocess",
        "torchlocks.core.layout",
        "torchlocks.workflow.environment",
    }
    script = (
        "import sys; before = set(sys.modules); import torchlocks.cli.main, torchlocks.core.process_exit\n"
        f"from torchlocks.install.up_to_date import quick_answer; assert quick_answer({ASKED!r})\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ})
    assert not heavy & set(run.stdout.split())


def test_the_command_prints_it(checkout: Path) -> None:
    run = torchlocks(*ASKED)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{quick_answer(ASKED)}\n"


@pytest.mark.parametrize("arguments", [["evidence", "--help"], ["run", "--help"], []])
def test_help_imports_nothing_that_only_work_needs(arguments: list[str]) -> None:
    heavy = {"pydantic", "rattler", "yaml", "rich", "ctypes", "torchlocks.core.systems", "torchlocks.matrix.model"}
    script = (
        "import sys; from torchlocks.cli.commands.root import root; from torchlocks.cli.verbs import VERBS\n"
        f"root(VERBS).main({arguments!r}, standalone_mode=False)\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "Usage:" in run.stdout + run.stderr
    assert not heavy & set(run.stderr.split())


def imported(*arguments: str) -> set[str]:
    """Return the modules that the command imports beside those of any start of Python."""
    script = (
        "import sys; before = set(sys.modules); from torchlocks.cli.quick import quick_status\n"
        f"assert quick_status({list(arguments)!r}) == 0\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "most"), [(["--version"], 7), (["--help"], 36), (["run", "cpu", "true"], 48), (ASKED, 16)]
)
def test_few_modules_are_imported_for_what_is_asked_often(checkout: Path, arguments: list[str], most: int) -> None:
    found = imported(*arguments)
    assert len(found) <= most, sorted(found)
    assert not {"click", "dataclasses", "pathlib", "rattler", "tempfile", "json"} & found


HEAVY = {
    *("pydantic", "rich", "ruamel", "jinja2", "conda_lock", "asyncio", "ssl", "logging", "subprocess"),
    *("torchlocks.core.frozen", "torchlocks.lockfile.pixi", "yaml", "rattler"),
}


MODELS = {"pydantic", "torchlocks.core.frozen", "torchlocks.lockfile.pixi"}


@pytest.mark.parametrize(
    ("asked", "needed", "most"),
    [
        ("matrix", {"yaml"}, 140),
        ("doctor", {"yaml", "rattler", "subprocess"}, 260),
        ("pick", {"yaml", "rattler", "subprocess", *MODELS}, 400),
        ("check --format json {lock}", {"yaml", "asyncio", "ssl", "logging", "subprocess", *MODELS}, 390),
    ],
)
def test_a_verb_imports_what_its_answer_needs(tmp_path: Path, asked: str, needed: set[str], most: int) -> None:
    folder = Path(__file__).parents[3]
    lock = shutil.copyfile(folder / "locks" / "cpu" / "conda-linux-64.lock", tmp_path / "cpu.lock")
    script = (
        "import sys; before = set(sys.modules); from torchlocks.cli.commands.root import root\n"
        "from torchlocks.cli.verbs import VERBS\n"
        f"root(VERBS).main({asked.format(lock=lock).split()!r}, standalone_mode=False)\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=folder)
    assert "cpu" in run.stdout
    found = set(run.stderr.split())
    assert HEAVY & found <= needed
    assert len(found) <= most, sorted(found)


@pytest.mark.parametrize("width", ["80", "55", "200"])
def test_help_is_the_same_with_and_without_click(monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    group = root(VERBS)
    context = click.Context(group)
    by_click = f"{context.get_help()}\n"
    assert by_click == overview()
    commands = {name: group.get_command(context, name) for name in VERBS}
    assert {name for name, each in commands.items() if each and each.hidden} == set(HIDDEN)
    for name, each in commands.items():
        assert each is not None
        assert sentence(name) == each.get_short_help_str(limit=1000)
        assert (f"\n  {name} " in by_click) == (name not in HIDDEN)


def test_the_version_is_the_same_with_and_without_click() -> None:
    assert click.testing.CliRunner().invoke(root(VERBS), ["--version"]).output == f"{VERSION}\n"
    assert torchlocks("--version").stdout == f"{VERSION}\n"


def test_run_gives_the_status_of_the_command(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert quick_status(["run", "cpu", "exit 7"]) == 7
    assert quick_status(["run", "cpu", "kill -TERM $$"]) == 128 + 15
    assert quick_status(["run", "cpu", "printf", "%s|", "two words", "$HOME"]) == 0
    assert capfd.readouterr().out == "two words|$HOME|"


def test_a_program_begins_as_from_any_shell(checkout: Path) -> None:
    # Python ignores SIGPIPE, and hands on what was opened to be handed on.
    assert quick_status(["run", "cpu", "kill -PIPE $$"]) == 128 + signal.SIGPIPE
    with (checkout / "matrix.yml").open() as stream:
        os.set_inheritable(stream.fileno(), True)
        assert quick_status(["run", "cpu", f"test -e /dev/fd/{stream.fileno()}"]) == 1


def test_ctrl_c_is_the_programs_to_answer(checkout: Path) -> None:
    command = "trap 'exit 5' INT; echo ready; while :; do sleep 0.05; done"
    script = (
        f"from torchlocks.cli.quick import quick_status; raise SystemExit(quick_status(['run', 'cpu', {command!r}]))"
    )
    # As at a terminal: the signal is sent to both.
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 5


@pytest.mark.parametrize(
    "arguments",
    [
        *(["run"], ["run", "cpu"], ["run", "auto", "true"], ["run", "../cpu", "true"], ["run", ".", "true"]),
        *(["run", "--help", "cpu", "true"], ["run", "gpu-cu118", "true"], ["--version", "run"], ["-hv"]),
    ],
)
def test_other_ways_to_run_are_left_to_the_command_line(checkout: Path, arguments: list[str]) -> None:
    assert quick_status(arguments) is None


def test_an_environment_that_needs_a_shell_or_failed_is_left_to_it(checkout: Path) -> None:
    prefix = checkout / "envs" / "cpu"
    assert quick_status(["run", "cpu", "true"]) == 0
    scripts = prefix / "etc" / "conda" / "activate.d"
    scripts.mkdir(parents=True)
    assert quick_status(["run", "cpu", "true"]) == 0
    (scripts / "a.sh").write_text("export A=b")
    assert quick_status(["run", "cpu", "true"]) is None
    (scripts / "a.sh").unlink()
    mark_verified(prefix, False, "reports/cpu.json")
    assert quick_status(["run", "cpu", "true"]) is None


def torchlocks(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "torchlocks"
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)

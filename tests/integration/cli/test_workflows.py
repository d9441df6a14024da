"""The workflows: pinned, with least permissions, each step one verb; and these verbs, run here as far as can be."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from conftest import ROOT
from preloaded import run_torchlocks
from torchlocks.cli.commands.root import root
from torchlocks.cli.verbs import VERBS
from torchlocks.core.errors import ActionError
from torchlocks.core.layout import Layout
from torchlocks.update.open_request import open_request

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yml"))}
TOOLS = ROOT / ".github" / "actions" / "tools" / "action.yml"
#: Steps that are no verb: what makes the tools, what reports an earlier step's failure, and the action's own example.
_OTHERS = (
    r"python scripts/bootstrap\.py \.venv( --dev)? --on-path",
    r"exit 1",
    r'python -c "import os, sys, torch; .*"',
)


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, workflow in WORKFLOWS.items():
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                yield name, step
    for step in yaml.safe_load(TOOLS.read_text(encoding="utf-8"))["runs"]["steps"]:
        yield "tools", step


RUNS = sorted({(name, step["run"].strip()) for name, step in steps() if "run" in step})


def test_there_is_a_workflow_for_each_purpose() -> None:
    assert set(WORKFLOWS) == {"pages.yml", "release.yml", "test.yml", "update.yml", "verify.yml"}


@pytest.mark.parametrize("path", [*FOLDER.glob("*.yml"), TOOLS, ROOT / "action.yml"], ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := re.search(r"^\s*(?:- )?uses: (\S+)(.*)$", line):
            pinned = re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", found[1]) and re.match(r" # v\d", found[2])
            assert pinned or found[1].startswith(("$/", "./")), line


def test_one_action_has_one_pin() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in [*FOLDER.glob("*.yml"), TOOLS, ROOT / "action.yml"])
    pins = set(re.findall(r"uses: ([\w./-]+)@([0-9a-f]{40})", texts))
    assert len({name for name, _ in pins}) == len(pins)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_permissions_are_the_least(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"], "every job names what it needs"
        assert job["timeout-minutes"] <= 360
        for step in job["steps"]:
            if str(step.get("uses", "")).startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_what_writes_runs_on_no_pull_request() -> None:
    for name, workflow in WORKFLOWS.items():
        events = workflow[True]  # YAML 1.1 reads `on` as true.
        for job in workflow["jobs"].values():
            writes = "write" in job["permissions"].values()
            if writes and "pull_request" in events:
                assert "github.event_name != 'pull_request'" in job["if"], name
        assert "pull_request_target" not in events
        assert "workflow_run" not in events


def test_machines_with_gpus_are_asked_for_by_a_variable() -> None:
    job = WORKFLOWS["verify.yml"]["jobs"]["gpu"]
    assert job["if"] == "vars.GPU_RUNNERS != '' && github.event_name != 'pull_request'"


@pytest.mark.parametrize(("name", "line"), RUNS)
def test_every_step_is_one_verb(name: str, line: str) -> None:
    assert "${{" not in line
    if any(re.fullmatch(other, line) for other in _OTHERS):
        return
    words = shlex.split(line)
    assert not set("|;&><`") & set(line), line
    if words[0] == "make":
        run = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return
    assert words[0] == "torchlocks"
    command = root(VERBS).get_command(click.Context(root(VERBS)), words[1])
    if isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words[2])
    assert command is not None, line
    known = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"(?<!\S)--[a-z-]+", line)) <= known


def test_zizmor_finds_nothing() -> None:
    zizmor = Path(sys.executable).with_name("zizmor")
    if not zizmor.exists():
        pytest.skip("zizmor is not installed")
    run = subprocess.run(
        [zizmor, "--offline", "--no-progress", ".github", "action.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_actionlint_finds_nothing() -> None:
    import shutil

    program = shutil.which("actionlint")
    if program is None:
        pytest.skip("actionlint is not installed; no package of PyPI has the program")
    run = subprocess.run([program, *map(str, FOLDER.glob("*.yml"))], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


# --- The verbs of the steps ---------------------------------------------------------------------------


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_torchlocks(arguments, cwd=cwd, env={**os.environ, **environment})


def test_the_plan_has_every_lock_by_every_client(tmp_path: Path) -> None:
    from torchlocks.lockfile.formats import explicit_name
    from torchlocks.matrix.load import load_matrix

    output = tmp_path / "output"
    done = run("evidence", "plan", "--since", "", "--max-age", "28", GITHUB_OUTPUT=str(output))
    assert done.returncode == 0, done.stderr
    jobs = json.loads(done.stdout)["include"]
    planned = [(env, job["platform"], job["client"]) for job in jobs for env in job["environments"].split()]
    layout = Layout(ROOT)
    locked = {
        (target.env, target.platform)
        for target in load_matrix(layout.matrix).targets()
        if (layout.locks / target.env / explicit_name(target.platform)).is_file()
    }
    assert {(env, platform) for env, platform, _ in planned} == locked
    assert len(planned) == len(set(planned)) == 3 * len(locked)
    assert len(jobs) <= 250
    assert len({job["name"] for job in jobs}) == len(jobs)
    written = output.read_text(encoding="utf-8")
    assert f"\n{len(jobs)}\n" in written
    assert done.stdout.strip() in written


def test_prove_without_the_client_is_an_error() -> None:
    done = run("evidence", "prove", "cpu", "--client", "micromamba", PATH="/nothing")
    assert (done.returncode, "micromamba is not installed" in done.stderr) == (14, True)
    assert run("evidence", "prove", "nothing-like-it").returncode == 11


_GH = """#!/bin/sh
printf '%s\\n' "$*" >> "$GH_LOG"
if [ "$2" = list ]; then cat "$GH_LOG.open" 2>/dev/null || echo '[]'; fi
if [ "$2" = create ]; then cat > "$GH_LOG.body"; fi
"""


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=N", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout with a remote of its own, and a stand-in for gh that writes down what it is asked."""
    root, remote, programs = tmp_path / "checkout", tmp_path / "remote.git", tmp_path / "bin"
    root.mkdir()
    programs.mkdir()
    (programs / "gh").write_text(_GH)
    (programs / "gh").chmod(0o755)
    for name in ("matrix.yml", "environment-cpu.yml", "README.md"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    git(tmp_path, "init", "-q", "--bare", str(remote))
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "First")
    git(root, "remote", "add", "origin", str(remote))
    return root


def ask(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{repository.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return run(*arguments, cwd=repository, PATH=path, GH_LOG=str(repository.parent / "log"), TORCHLOCKS_ROOT="")


def test_a_pull_request_is_opened_and_renewed(repository: Path) -> None:
    body, log = repository.parent / "body.md", repository.parent / "log"
    body.write_text("## Add evidence on 1 lock\n\n- it\n")
    arguments = ("pull-request", "--branch", "evidence", "--body", str(body), "evidence", "README.md")
    done = ask(repository, *arguments)
    assert (done.returncode, log.exists()) == (0, False), "nothing has changed"
    (repository / "evidence").mkdir()
    (repository / "evidence" / "a.json").write_text("{}")
    (repository / "private.txt").write_text("not named")
    done = ask(repository, *arguments)
    assert done.returncode == 0, done.stderr
    asked = log.read_text().splitlines()
    assert asked[-1] == "pr create --head evidence --title Add evidence on 1 lock --body-file -"
    assert (repository.parent / "log.body").read_text() == body.read_text()
    remote = repository.parent / "remote.git"
    assert git(remote, "show", "--name-only", "--format=%s", "evidence").split("\n\n") == [
        "Add evidence on 1 lock",
        "evidence/a.json",
    ]
    (repository.parent / "log.open").write_text('[{"number": 3}]')
    (repository / "evidence" / "a.json").unlink()
    assert ask(repository, *arguments).returncode == 0
    assert log.read_text().splitlines()[-1].startswith("pr edit evidence --title Add evidence")
    assert "evidence/a.json" not in git(remote, "ls-tree", "-r", "--name-only", "evidence")


@pytest.mark.parametrize("branch", ["--force", "a..b", "a b", ""])
def test_a_branch_that_is_none(tmp_path: Path, branch: str) -> None:
    (tmp_path / "body.md").write_text("## It\n")
    with pytest.raises(ActionError):
        open_request(Layout(tmp_path), branch, tmp_path / "body.md", ["README.md"])


def test_a_body_without_a_title(repository: Path) -> None:
    (repository.parent / "body.md").write_text("nothing\n")
    done = ask(repository, "pull-request", "--branch", "evidence", "--body", "../body.md", "README.md")
    assert done.returncode == 14


def test_a_release_has_all_files_and_their_sums(repository: Path) -> None:
    folder = repository.parent / "built"
    (folder / "channel" / "noarch").mkdir(parents=True)
    (folder / "a-1.0.whl").write_text("wheel")
    (folder / "channel" / "noarch" / "b-1.0.conda").write_text("package")
    assert ask(repository, "release", "v1.0.0; rm -rf .", str(folder)).returncode == 65
    assert ask(repository, "release", "v1.0.0", str(folder / "channel" / "nothing")).returncode == 14
    done = ask(repository, "release", "v1.0.0", str(folder))
    assert done.returncode == 0, done.stderr
    asked = (repository.parent / "log").read_text()
    assert asked.startswith("release create v1.0.0 --verify-tag")
    assert [Path(word).name for word in asked.split() if "/" in word] == ["a-1.0.whl", "b-1.0.conda", "SHA256SUMS"]
    assert (folder / "SHA256SUMS").read_text().count("\n") == 2


def test_without_gh(repository: Path) -> None:
    import shutil

    found = shutil.which("git")
    assert found is not None
    only = repository.parent / "only"
    only.mkdir()
    (only / "git").symlink_to(found)
    (repository.parent / "a.whl").write_text("it")
    done = run("release", "v1.0.0", str(repository.parent), cwd=repository, PATH=str(only), TORCHLOCKS_ROOT="")
    assert (done.returncode, "gh is not installed" in done.stderr) == (65, True)


def test_bootstrap_puts_the_tools_on_path(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bootstrap.py"), str(ROOT / ".venv"), "--on-path"]
    if not (ROOT / ".venv" / "torchlocks-made-from").exists():
        pytest.skip("the tools are not in .venv")
    environment = {name: value for name, value in os.environ.items() if name != "GITHUB_PATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "GITHUB_PATH" in done.stderr) == (15, True)


@pytest.mark.skipif(not os.environ.get("TORCHLOCKS_SLOW"), reason="builds wheel and source distribution; the long form")
def test_dist_has_the_repositorys_files(tmp_path: Path) -> None:
    import tarfile
    import zipfile

    done = run("dist", TORCHLOCKS_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "build" / "dist"
    assert {path.suffix for path in folder.iterdir()} == {".whl", ".gz", ""}
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        assert "torchlocks/_data/evidence/README.md" in wheel.namelist()
    with tarfile.open(next(folder.glob("*.tar.gz"))) as source:
        assert any(name.endswith("/locks/cpu/conda-lock.yml") for name in source.getnames())
    assert (folder / "SHA256SUMS").read_text().count("\n") == 2

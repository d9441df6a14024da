"""The GitHub Action, its workflows and the pre-commit hooks: valid, and run step by step as a runner would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import LAYOUT
from preloaded import TORCHLOCKS, run_torchlocks
from support import few_environments, make_key
from tiny_channel import PLATFORM, make_channel
from torchlocks.cli.action import Inputs, make_plan, read_inputs, write_outputs
from torchlocks.core.errors import ActionError, MissingFileError, NoSuchRowError
from torchlocks.host.detect import host_platform
from torchlocks.lockfile.explicit import write_explicit

ROOT = LAYOUT.root
SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
on_linux = pytest.mark.skipif(host_platform() != PLATFORM, reason=f"the tiny channel is for {PLATFORM}")


def tool(name: str) -> str | None:
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.is_file() else shutil.which(name)


@pytest.mark.skipif(tool("check-jsonschema") is None, reason="check-jsonschema is not installed")
@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-actions", ["action.yml"]),
        (
            "vendor.github-workflows",
            [path.relative_to(ROOT).as_posix() for path in (ROOT / ".github" / "workflows").glob("*.yml")],
        ),
    ],
)
def test_github_accepts_the_files(schema: str, files: list[str]) -> None:
    command = [tool("check-jsonschema") or "", "--builtin-schema", schema, *files]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


@pytest.mark.skipif(tool("pre-commit") is None, reason="pre-commit is not installed")
def test_pre_commit_accepts_the_hooks() -> None:
    command = [tool("pre-commit") or "", "validate-manifest", ".pre-commit-hooks.yaml"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_the_hooks_are_commands_that_torchlocks_has(tmp_path: Path) -> None:
    """Each is run as pre-commit runs it, with the files that its pattern takes; then with a lock that is broken."""
    hooks = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    assert set(hooks) == {"torchlocks-check", "torchlocks-lock-is-current"}
    few_environments(tmp_path, "cpu")
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())

    def run(hook: dict[str, Any]) -> int:
        matching = [name for name in files if re.search(hook["files"], name)]
        assert matching
        assert "README.md" not in matching
        words = hook["entry"].split()
        named = matching[:3] if hook.get("pass_filenames", True) else []
        return run_torchlocks([*words[1:], *named], cwd=tmp_path).returncode

    assert {name: run(hook) for name, hook in hooks.items()} == dict.fromkeys(hooks, 0)
    template = tmp_path / "environment-cpu.yml"
    template.write_text(template.read_text() + "  - scipy\n")
    assert run(hooks["torchlocks-lock-is-current"]) == 61
    # Where a lock cannot even be read, nothing says that it is current.
    shutil.copy(ROOT / "environment-cpu.yml", tmp_path)
    (tmp_path / "locks" / "cpu" / "conda-lock.yml").write_text("version: 1\nmetadata: {\n")
    assert run(hooks["torchlocks-lock-is-current"]) == 61
    lock = tmp_path / next(name for name in files if re.search(hooks["torchlocks-check"]["files"], name))
    lock.write_text(lock.read_text().replace("#", "#0", 9))
    assert run(hooks["torchlocks-check"]) == 61


@dataclass
class Runner:
    """Runs the steps of the action as GitHub's runner does: expressions filled in, bash, the files that it names."""

    temp: Path
    workspace: Path
    inputs: dict[str, str]
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    log: str = ""

    def run(self, *, skip: tuple[str, ...] = ()) -> int:
        """Run all steps but those whose ids are skipped and those of other actions; the first failure's status."""
        given = {name: str(each.get("default", "")) for name, each in ACTION["inputs"].items()} | self.inputs
        assert given.keys() == ACTION["inputs"].keys()
        self.given = given
        for step in ACTION["runs"]["steps"]:
            if "uses" in step or step["id"] in skip:
                continue
            status = self._step(step)
            if status != 0:
                return status
        return 0

    def _step(self, step: dict[str, Any]) -> int:
        names = ("GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_ENV", "GITHUB_STEP_SUMMARY")
        files = {name: self.temp / f"{step['id']}-{name}" for name in names}
        for file in files.values():
            file.write_text("")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TORCHLOCKS_", "INPUT_"))},
            **self.variables,
            **{name: str(file) for name, file in files.items()},
            "RUNNER_TEMP": str(self.temp),
            "PATH": os.pathsep.join([*self.path, os.environ["PATH"]]),
            **{name: self.fill(str(value)) for name, value in step.get("env", {}).items()},
        }
        script = self.temp / "step.sh"
        script.write_text(self.fill(step["run"]))
        # As the runner calls bash for `shell: bash`.
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)]
        done = subprocess.run(
            command, cwd=self.workspace, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
        self.log += done.stdout + done.stderr
        self.outputs[step["id"]] = assignments(files["GITHUB_OUTPUT"].read_text())
        self.variables |= assignments(files["GITHUB_ENV"].read_text())
        for folder in files["GITHUB_PATH"].read_text().splitlines():
            self.path.insert(0, folder)
        return done.returncode

    def fill(self, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            words = match[1].strip().split(".")
            if words[0] == "inputs":
                return self.given[words[1]]
            if words[0] == "steps":
                return self.outputs[words[1]][words[3]]
            return {"github.action_path": str(ROOT), "runner.temp": str(self.temp)}[".".join(words)]

        return re.sub(r"\$\{\{(.*?)\}\}", value, text)


def assignments(text: str) -> dict[str, str]:
    """What a step wrote for the runner: `name=value` lines, and `name<<end`, lines of value, `end`."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        if match := re.fullmatch(r"([\w-]+)<<(.+)", line):
            value = []
            for inner in lines:
                if inner == match[2]:
                    break
                value.append(inner)
            found[match[1]] = "\n".join(value)
        elif line:
            name, _, rest = line.partition("=")
            found[name] = rest
    return found


def runner(tmp_path: Path, **inputs: str) -> Runner:
    """A runner on which the step that makes the tools is done already."""
    for name in ("temp", "workspace"):
        (tmp_path / name).mkdir(exist_ok=True)
    made = Runner(
        temp=tmp_path / "temp",
        workspace=tmp_path / "workspace",
        inputs={name.replace("_", "-"): value for name, value in inputs.items()},
    )
    made.outputs["tool"] = {"torchlocks": str(TORCHLOCKS)}
    return made


@on_linux
def test_a_signed_lock_is_installed_for_the_steps_that_follow(tmp_path: Path) -> None:
    channel = make_channel(tmp_path / "channel")
    steps = runner(tmp_path, lock="tiny env.lock", allowed_signers="allowed_signers", signer="me@example.org")
    lock = steps.workspace / "tiny env.lock"
    lock.write_text(write_explicit(channel.lock(), PLATFORM))
    (steps.workspace / "allowed_signers").write_text(f"me@example.org {make_key(tmp_path / 'key')}\n")
    subprocess.run([str(TORCHLOCKS), "sign", str(lock), "--key", str(tmp_path / "key")], check=True)

    assert steps.run(skip=("tool",)) == 0, steps.log
    prefix = Path(steps.outputs["install"]["prefix"])
    assert (prefix / "share" / "alpha.txt").is_file()
    assert steps.outputs["install"]["name"] == "tiny-env"
    assert steps.outputs["plan"]["key"].startswith(f"torchlocks-{PLATFORM}-tiny-env-")
    # The steps that follow find its programs before the machine's, and the variables of an activated environment.
    assert shutil.which("alpha", path=os.pathsep.join(steps.path)) == str(prefix / "bin" / "alpha")
    assert steps.path[0] == str(prefix / "bin")
    assert steps.variables["CONDA_PREFIX"] == str(prefix)
    assert "signed by me@example.org" in (steps.temp / "install-GITHUB_STEP_SUMMARY").read_text()
    # What the cache step keeps is where the packages are.
    kept = [Path(path) for path in steps.outputs["plan"]["paths"].splitlines()]
    assert any(folder.is_dir() and list(folder.rglob("many-*")) for folder in kept)

    again = runner(tmp_path, lock="tiny env.lock", allowed_signers="allowed_signers")
    lock.write_text(lock.read_text() + "\n")
    assert again.run(skip=("tool",)) == 34
    assert "::error title=torchlocks::The lock is not what was signed" in again.log
    assert again.outputs["plan"]["key"] != steps.outputs["plan"]["key"]
    assert "prefix" not in again.outputs["install"]


def test_a_missing_lock_fails_before_anything_is_installed(tmp_path: Path) -> None:
    steps = runner(tmp_path, lock="nowhere/conda-lock.yml")
    assert steps.run(skip=("tool",)) == 14
    assert "install" not in steps.outputs


@pytest.mark.skipif(not SLOW, reason="makes tools and an environment, minutes; TORCHLOCKS_SLOW=1 runs this")
def test_the_whole_action_with_the_local_channel(tmp_path: Path, environment: Path) -> None:
    steps = runner(tmp_path, channel="local")
    for name in ("channel", "wheels"):
        shutil.copytree(LAYOUT.build / name, steps.temp / "torchlocks" / "build" / name)
    assert steps.run() == 0, steps.log
    path = os.pathsep.join([*steps.path, os.environ["PATH"]])
    source = "import sys, torch; print(sys.prefix)"
    done = subprocess.run(
        [shutil.which("python", path=path) or "", "-c", source],
        env={**os.environ, **steps.variables, "PATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == steps.outputs["install"]["prefix"]
    assert "verified" in (steps.temp / "install-GITHUB_STEP_SUMMARY").read_text()


def inputs(**values: str) -> Inputs:
    return read_inputs({f"INPUT_{name.upper()}": value for name, value in values.items()})


def test_inputs_stand_for_environments() -> None:
    assert make_plan(inputs(), LAYOUT, "linux-64").name == "cpu"
    by_cuda = make_plan(inputs(cuda="12.6"), LAYOUT, "linux-64")
    assert by_cuda == make_plan(inputs(env="gpu-cu126"), LAYOUT, "linux-64")
    assert by_cuda.prefix == LAYOUT.prefix("gpu-cu126")
    local = make_plan(inputs(channel="local"), LAYOUT, "linux-64")
    assert local.key != make_plan(inputs(channel="auto"), LAYOUT, "linux-64").key
    assert inputs(verify="False").verify is False


@pytest.mark.parametrize(
    "values",
    [
        {"env": "cpu", "cuda": "12.6"},
        {"env": "cpu", "lock": "conda-lock.yml"},
        {"channel": "bioconda"},
        {"verify": "perhaps"},
        {"allowed_signers": "signers"},
        {"lock": "x.lock", "signer": "me"},
        {"channel": "local", "verify": "false"},
        {"channel": "local", "lock": "x.lock"},
    ],
)
def test_inputs_that_make_no_sense_are_refused(values: dict[str, str]) -> None:
    with pytest.raises(ActionError):
        inputs(**values)


def test_what_is_not_in_the_matrix_is_refused() -> None:
    with pytest.raises(NoSuchRowError):
        make_plan(inputs(env="gpu-cu999"), LAYOUT, "linux-64")
    with pytest.raises(NoSuchRowError):
        make_plan(inputs(cuda="11.8"), LAYOUT, "osx-arm64")
    with pytest.raises(MissingFileError):
        make_plan(inputs(lock="nowhere.lock"), LAYOUT, "linux-64")


def test_outside_a_workflow_the_action_is_an_error(tmp_path: Path) -> None:
    names = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    run = run_torchlocks(["action", "plan"], cwd=ROOT, env=names)
    assert (run.returncode, "not a step of a GitHub workflow" in run.stderr) == (65, True)


def test_a_file_of_the_runner_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none" / "output")
    with pytest.raises(ActionError, match="GITHUB_OUTPUT names cannot be written") as caught:
        write_outputs({"GITHUB_OUTPUT": nowhere}, name="cpu")
    assert caught.value.where == nowhere

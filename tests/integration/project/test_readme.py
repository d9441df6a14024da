"""README, CONTRIBUTING and `docs/`: every command is run, tables are the matrix, and links lead to files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import LAYOUT, ROOT
from support import keep_environments
from torchlocks.evidence.tables import tables
from torchlocks.lockfile.formats import read_lock
from torchlocks.matrix.load import load_matrix

README = (LAYOUT.root / "README.md").read_text(encoding="utf-8")
SNAPSHOT = os.environ.get("TORCHLOCKS_SNAPSHOT")
DOCS = {path.name: path.read_text(encoding="utf-8") for path in sorted((LAYOUT.root / "docs").glob("*.md"))}
CONTRIBUTING = (LAYOUT.root / "CONTRIBUTING.md").read_text(encoding="utf-8")
_TEXTS = "\n".join((README, CONTRIBUTING, *DOCS.values()))
# A command that stands in several places is run once.
COMMANDS = list(
    dict.fromkeys(
        line for block in re.findall(r"```sh\n(.*?)```", _TEXTS, re.DOTALL) for line in block.splitlines() if line
    )
)

# What a command says where this machine lacks what it needs: a channel, a driver, an environment made before.
# Anything else than success or these words fails the test.
NEEDS = {
    "make env-gpu CUDA=11.8": "packages cannot be downloaded",
    "make env-gpu CUDA=12.9 PY=3.13 TORCH=2.12": "packages cannot be downloaded",
    "make env-cpu PY=3.14": "packages cannot be downloaded",
    "make pair CUDA=12.9": "packages cannot be downloaded",
    "make env-gpu CUDA=auto": "requires an NVIDIA driver, and this machine has none",
    "make run ENV=gpu-cu118 CMD='python train.py'": "The environment 'gpu-cu118' is not installed",
    "make bundle ENV=gpu-cu118 PLATFORM=linux-64": "conda.anaconda.org",
    "make lock": "conda-forge cannot be read",
    "make refresh DRY=1": "conda-forge cannot be read",
    "make lock ENV=cpu PLATFORM=linux-64 AS_OF=2026-07-01": "conda-forge cannot be read",
    "make update PKG=numpy ENV=cpu": "conda-forge cannot be read",
}


@pytest.fixture(scope="module")
def clone(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that commands share which leave what is committed as it is."""
    return make_clone(tmp_path_factory.mktemp("readme") / "clone")


def make_clone(root: Path) -> Path:
    """A clone of the project as it stands, with the tool and the environment that were made before."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    (root / "build").mkdir()
    for name in (".venv", "envs", "build/local"):
        (root / name).symlink_to(LAYOUT.root / name)
    return root


@pytest.fixture(scope="module")
def few(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of a few environments, for what reads all of them: it does the same for each."""
    root = make_clone(tmp_path_factory.mktemp("few") / "clone")
    keep_environments(root, "cpu", "gpu-cu118")
    return root


# CI runs `make lint` and `make test` itself; `make env-cpu` has a test of its own below.
@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("make env-cpu", "make test", "make lint")])
def test_every_command_works_or_names_what_it_needs(clone: Path, few: Path, command: str, tmp_path: Path) -> None:
    if command.startswith(("make check", "make recipes", "make site")):
        clone = few
    elif command.startswith(("make lock", "make update", "make refresh")):
        clone = make_clone(tmp_path / "clone")
        keep_environments(clone, "cpu", "gpu-cu118")
        command += f" SNAPSHOT='{SNAPSHOT}'" if SNAPSHOT else ""
    run = subprocess.run(
        command, shell=True, cwd=clone, capture_output=True, text=True, timeout=600, input="exit\n", check=False
    )
    assert "Traceback" not in run.stderr
    needs = NEEDS.get(command)
    assert run.returncode == 0 or (needs and needs in run.stderr), run.stderr


def test_the_two_first_commands_are_real(environment: Path) -> None:
    assert COMMANDS[:2] == ["make env-cpu", "make test"]
    again = subprocess.run(
        ["make", "env-cpu", "CHANNEL=local"], cwd=LAYOUT.root, capture_output=True, text=True, check=False
    )
    assert "Nothing to do" in again.stdout, again.stderr
    run = subprocess.run(["make", "-n", "test"], cwd=LAYOUT.root, capture_output=True, text=True, check=True)
    assert "pytest" in run.stdout


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in (LAYOUT.root / ".ci" / "run").read_text(encoding="utf-8")


def test_the_readmes_table_is_the_matrix() -> None:
    table = README.split("`torchlocks matrix --write` -->\n")[1].split("<!-- /matrix -->")[0]
    wanted = tables(LAYOUT, load_matrix(LAYOUT.matrix))[LAYOUT.root / "README.md"]
    assert table == wanted, "run `torchlocks matrix --write`"


def test_the_page_of_environments_is_the_matrix() -> None:
    table = "".join(line for line in DOCS["environments.md"].splitlines(keepends=True) if line.startswith("|"))
    wanted = tables(LAYOUT, load_matrix(LAYOUT.matrix))[LAYOUT.root / "docs" / "environments.md"]
    assert table == wanted, "run `torchlocks matrix --write`"


def test_the_lockfiles_that_it_names_are_there() -> None:
    named = sorted(set(re.findall(r"locks/[\w-]+/[\w.-]+\.(?:lock|yml)", _TEXTS)))
    assert len(named) >= 2
    for name in named:
        assert read_lock(LAYOUT.root / name).packages


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_the_files_that_they_link_to_exist(text: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    assert targets
    for target in targets:
        assert target.startswith("https://") or (LAYOUT.root / target).exists(), target


@pytest.mark.parametrize("page", DOCS)
def test_the_files_and_pages_that_a_page_links_to_are_there(page: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", DOCS[page]):
        assert target.startswith("https://") or (LAYOUT.root / "docs" / target).exists(), target


def test_every_make_variable_that_they_name_exists() -> None:
    makefile = (LAYOUT.root / "Makefile").read_text(encoding="utf-8")
    # Pages also name variables of shells and of other programs, so there only what is given to make counts.
    given = " ".join(re.findall(r"\bmake [a-z-]+([^`\n]*)", _TEXTS))
    for name in set(re.findall(r"\b([A-Z_]{3,})=", README + given)):
        assert re.search(rf"^{name}\s+\?=|\b{name}\b", makefile, re.MULTILINE), name

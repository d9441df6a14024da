"""Verbs of the command line that other tests do not run whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import LAYOUT
from preloaded import TORCHLOCKS
from support import SNAPSHOT, needs_snapshot, torchlocks
from torchlocks.cli.verbs import VERBS
from torchlocks.host.detect import host_platform
from torchlocks.install.provenance import read_provenance
from torchlocks.lockfile.formats import read_lock
from torchlocks.matrix.load import load_matrix

LOCAL = LAYOUT.local_locks / "cpu"
FOREIGN = "win-64" if host_platform() != "win-64" else "linux-64"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def served(environment: Path) -> Iterator[str]:
    """The local CPU lock on a web server; the URL of its folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(LOCAL)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("name", ["conda-lock.yml", "pixi.lock", f"conda-{host_platform()}.lock"])
def test_any_format_installs_the_same(environment: Path, tmp_path: Path, name: str) -> None:
    prefix = tmp_path / "an environment"
    run = torchlocks(LAYOUT.root, "install", str(LOCAL / name), str(prefix))
    assert run.returncode == 0, run.stderr
    records = {path.name for path in (prefix / "conda-meta").glob("*.json")}
    assert records == {path.name for path in (environment / "conda-meta").glob("*.json")}
    again = torchlocks(LAYOUT.root, "install", str(LOCAL / name), str(prefix), "--json")
    assert json.loads(again.stdout) == {"prefix": str(prefix), "changed": False, "packages": len(records)}
    shutil.rmtree(prefix)


def test_a_lock_is_installed_from_a_url(served: str, tmp_path: Path) -> None:
    prefix = tmp_path / "env"
    run = torchlocks(LAYOUT.root, "install", f"{served}/conda-lock.yml", str(prefix))
    assert run.returncode == 0, run.stderr
    assert read_provenance(prefix) is not None
    shutil.rmtree(prefix)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("install", "/no/such/lock", "p"), 14, "/no/such/lock"),
        (("install", "http://127.0.0.1:9/conda-lock.yml", "p"), 31, "cannot be fetched"),
        (("install", "README.md", "p"), 13, "README.md"),
        (("install", "matrix.yml", "p"), 13, "matrix.yml"),
        (("install", "locks/cpu/conda-lock.yml"), 2, "PREFIX"),
        (("install", "locks/cpu/conda-lock.yml", "p", "--platform", FOREIGN), 50, "--download-only"),
        (("install", "locks/cpu/conda-lock.yml", "p", "--platform", "linux-32"), 50, "linux-32"),
        (("verify", "absent"), 14, "not installed"),
        (("fsck", "absent"), 14, "not installed"),
        (("rollback", "absent"), 14, "no previous environment"),
        (("why", "nupmy", "--env", "cpu", "--platform", "linux-64"), 13, "numpy"),
        (("why", "numpy", "--env", "gpu-cu117"), 11, "gpu-cu118"),
        (("why", "torchvision", "--env", "gpu-cu130", "--platform", "linux-64"), 13, "gpu-cu129"),
        (("diff", "locks/cpu", "no-such-revision:locks/cpu/conda-lock.yml"), 14, "no-such-revision"),
        (("check", "/no/such/file"), 14, "/no/such/file"),
        (("check", "README.md"), 61, "README.md"),
        (("export", "cpu", "--platform", "linux-64", "-o", "README.md"), 14, "cannot be written"),
        (("update-all", "--since", "HEAD", "-o", "README.md/update.md"), 14, "cannot be written"),
        (("render", "--env", "gpu-cu118", "--platform", "win-64"), 11, "does not exist for win-64"),
        (("env", "gpu", "--cuda", "12.3"), 11, "12.3"),
        (("env", "tpu"), 2, "tpu"),
        (("instal", "x"), 2, "Did you mean 'install'?"),
    ],
)
def test_a_mistake_is_reported_with_its_exit_code(arguments: tuple[str, ...], code: int, said: str) -> None:
    run = torchlocks(LAYOUT.root, *arguments)
    assert (run.returncode, said in run.stdout + run.stderr) == (code, True), run.stdout + run.stderr
    assert not (LAYOUT.root / "p").exists()


def test_the_help_describes_every_verb() -> None:
    run = torchlocks(LAYOUT.root, "--help")
    assert run.returncode == 0
    listed = run.stdout.partition("Commands:\n")[2]
    verbs = re.findall(r"^  (\S+) ", listed, re.MULTILINE)
    assert set(verbs) == set(VERBS) - {"action"}
    assert "..." not in listed


def test_offline_names_what_is_missing(tmp_path: Path) -> None:
    lock = str(LAYOUT.locks / "gpu-cu118" / "conda-lock.yml")
    cache = {"TORCHLOCKS_CACHE": str(tmp_path / "cache"), "CONDA_SUBDIR": "linux-64"}
    run = torchlocks(tmp_path, "install", lock, "p", "--offline", **cache)
    assert run.returncode == 31
    assert all(package.file_name in run.stderr for package in read_lock(Path(lock)).packages["linux-64"])


def test_a_verdict_can_be_asked_for_again(environment: Path) -> None:
    run = torchlocks(LAYOUT.root, "verify", "cpu", "-k", "test_static", "--json")
    assert run.returncode == 0, run.stderr
    verdict = json.loads(run.stdout)
    assert {(check["outcome"], check["why"]) for check in verdict["checks"] if check["tier"] == "static"} == {
        ("passed", None),
        ("skipped", "for cuda environments"),
    }


def test_a_selection_that_matches_nothing_is_reported_and_changes_no_mark(environment: Path) -> None:
    before = read_provenance(environment)
    run = torchlocks(LAYOUT.root, "verify", "cpu", "-k", "test_nosuchcheck")
    assert run.returncode == 60
    assert "No check matches" in run.stderr
    assert "test_nosuchcheck" in run.stderr
    assert read_provenance(environment) == before


def test_every_rule_is_listed_with_its_reason() -> None:
    run = torchlocks(LAYOUT.root, "check", "--rules")
    lines = run.stdout.splitlines()
    assert len(lines) > 30
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


def test_the_committed_locks_are_right() -> None:
    run = torchlocks(LAYOUT.root, "check", "--format", "json")
    report = json.loads(run.stdout)
    assert report["findings"] == []
    assert report["skipped"] == []
    assert run.returncode == 0
    assert report["locks"] == len(load_matrix(LAYOUT.matrix).targets())


@needs_snapshot
def test_locking_again_is_one_of_the_checks(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("matrix.yml", "environment-cpu.yml", "environment-gpu.yml"):
        shutil.copy(LAYOUT.root / name, root)
    shutil.copytree(LAYOUT.locks, root / "locks")
    good = torchlocks(root, "check", "--env", "gpu-cu118", "--snapshot", str(SNAPSHOT))
    assert good.returncode == 0, good.stdout
    # A newer build number in the metadata: nothing but making it again can tell.
    lock = root / "locks" / "gpu-cu118" / "conda-lock.yml"
    lock.write_text(lock.read_text().replace("torchlocks: 0", "torchlocks: 9"))
    bad = torchlocks(root, "check", "--env", "gpu-cu118", "--snapshot", str(SNAPSHOT), "--format", "github")
    assert bad.returncode == 61
    assert "relock-differs" in bad.stdout


def test_why_shows_the_chain() -> None:
    run = torchlocks(LAYOUT.root, "why", "cudnn", "--env", "gpu-cu118", "--platform", "linux-64")
    assert run.returncode == 0
    held = {each.name: each for each in read_lock(LAYOUT.locks / "gpu-cu118" / "conda-lock.yml").packages["linux-64"]}
    chain = f"pytorch {held['pytorch'].version} → cudnn {held['cudnn'].version}"
    assert any(line.startswith(chain) for line in run.stdout.splitlines()), run.stdout


@needs_snapshot
def test_why_a_spec_cannot_be_had_is_the_solvers_to_say() -> None:
    where = ("--env", "gpu-cu118", "--platform", "linux-64", "--snapshot", str(SNAPSHOT))
    both = torchlocks(LAYOUT.root, "why", "pytorch * cpu*", *where)
    assert both.returncode == 20
    assert "one environment contains one build of PyTorch" in both.stderr
    old = torchlocks(LAYOUT.root, "why", "numpy <1.20", *where)
    assert old.returncode == 20
    assert "numpy" in old.stderr
    fine = torchlocks(LAYOUT.root, "why", "numpy <2", *where)
    assert fine.returncode == 0
    assert "numpy 1.26" in fine.stdout


def test_a_comparison_can_be_read_by_programs() -> None:
    run = torchlocks(LAYOUT.root, "diff", "locks/gpu-cu126", "locks/gpu-cu128", "--format", "json")
    assert run.returncode == 0
    assert json.loads(run.stdout)["schema"] == 1


def test_a_reader_that_goes_away_is_no_failure_of_ours(tmp_path: Path) -> None:
    code = os.system(f"cd '{LAYOUT.root}' && '{TORCHLOCKS}' render 2>'{tmp_path}/err' | head -1 >/dev/null")
    assert code == 0
    assert (tmp_path / "err").read_text(encoding="utf-8") == ""

"""Locking, checking and verifying on a real Dask cluster: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from conftest import LAYOUT, Checkout
from preloaded import run_torchlocks
from small_matrix import SmallMatrix, small_matrix
from support import few_environments
from torchlocks.core.errors import FleetError
from torchlocks.dask.lock import open_cluster
from torchlocks.locking.cell import CellTask, solve_cell
from torchlocks.locking.options import find_solver
from torchlocks.matrix.load import load_matrix
from torchlocks.solve.repodata import RecordSource

BIN = Path(sys.executable).parent
pytest.importorskip("distributed", reason="working on a fleet needs Dask: pip install 'torchlocks[fleet]'")


class Cluster:
    """A scheduler on loopback, and the workers that a test starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._start("scheduler", "scheduler", "--port", "0", "--scheduler-file", str(self.file))
        # Dask creates the file, and then writes it.
        _wait_for(lambda: self.file.is_file() and self.file.read_bytes().endswith(b"}"), "the scheduler")
        self.address = str(json.loads(self.file.read_text())["address"])

    def worker(self, name: str, preload: str | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker in a folder of its own, and wait until the scheduler has it; `preload` is run in it first."""
        more = () if preload is None else ("--preload", preload)
        options = (*more, "--name", name, "--nthreads", "1", "--no-nanny", "--local-directory", str(self.folder / name))
        process = self._start(name, "worker", self.address, *options, **environment)
        log = self.folder / f"{name}.log"
        _wait_for(lambda: "Registered to" in log.read_text(), f"worker {name}")
        return process

    def _start(self, name: str, kind: str, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(BIN / "dask"), kind, "--host", "127.0.0.1", "--no-dashboard", *options],
                cwd=self.folder,
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes[name] = process
        return process

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


def _wait_for(there: Callable[[], bool], what: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until, f"{what} did not come"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.worker("one")
        yield cluster
    finally:
        cluster.stop()


def torchlocks(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_torchlocks(arguments, cwd=root, timeout=300)


def lock(matrix: SmallMatrix, *more: str) -> subprocess.CompletedProcess[str]:
    return torchlocks(matrix.root, "lock", "--force", "--snapshot", str(matrix.snapshot), *more)


def test_a_fleet_makes_the_same_locks_and_reports_the_same_errors(cluster: Cluster, tmp_path: Path) -> None:
    here, there = small_matrix(tmp_path / "here", 3), small_matrix(tmp_path / "there", 3)
    for matrix in (here, there):
        text = (matrix.root / "matrix.yml").read_text()
        document = json.loads(text)
        document["environments"]["e02"] = json.loads(json.dumps(document["environments"]["e02"]).replace("2.5", "9.9"))
        (matrix.root / "matrix.yml").write_text(json.dumps(document))
    local, remote = lock(here), lock(there, "--scheduler", cluster.address)
    assert (local.returncode, remote.returncode) == (20, 20)
    assert here.locks == there.locks
    assert sorted({Path(name).parts[1] for name in there.locks}) == ["e00", "e01"], (
        "the one without a solution has none"
    )
    said = remote.stderr[remote.stderr.index("error:") :]
    assert said == local.stderr[local.stderr.index("error:") :]
    assert "e02 on linux-64" in said


def test_workers_that_share_no_file_and_die_are_survived(cluster: Cluster, tmp_path: Path) -> None:
    expected, matrix = small_matrix(tmp_path / "expected", 30), small_matrix(tmp_path / "matrix", 30)
    assert lock(expected).returncode == 0
    victim = cluster.worker("victim")
    arguments = ("lock", "--force", "--snapshot", str(matrix.snapshot), "--scheduler", cluster.address)
    with subprocess.Popen(
        [str(BIN / "torchlocks"), *arguments],
        cwd=matrix.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        _wait_for(lambda: bool(matrix.locks), "the first lock")
        # Stopped, it keeps what it has begun; the run cannot end without that.
        victim.send_signal(signal.SIGSTOP)
        # The workers read what they were sent, not the snapshot of the machine that asks.
        matrix.snapshot.rename(tmp_path / "moved away")
        time.sleep(2)
        assert run.poll() is None, "the run ended before a worker could be lost in its midst"
        victim.kill()
        said, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors
    assert sorted(line.split()[0] for line in said.splitlines()) == [f"e{n:02}" for n in range(30)], "each once"
    assert matrix.locks == expected.locks
    assert not list((matrix.root / "locks").rglob(".*")), "nothing half-written is left"
    left = list(cluster.folder.glob("one/**/torchlocks-records-*"))
    assert not left, "the workers keep no records"


def test_a_worker_with_another_torchlocks_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other" / "torchlocks-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torchlocks\nVersion: 0.0.1\n")
    odd = cluster.worker("odd", PYTHONPATH=str(other.parent))
    try:
        matrix = small_matrix(tmp_path, 2)
        run = lock(matrix, "--scheduler", cluster.address)
        assert run.returncode == 52
        assert "torchlocks 0.0.1" in run.stderr
        assert "pip install" in run.stderr
        assert not matrix.locks
    finally:
        odd.kill()
        odd.wait()


DIES = """
import os
from torchlocks.dask import worker

def perform(request):
    os._exit(9)

worker.perform = perform
"""


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A checkout of three environments in which rules of every kind find something, or cannot be applied."""
    layout = few_environments(tmp_path / "a checkout", "cpu", "gpu-cu118", "gpu-cu121")
    document = yaml.safe_load(layout.matrix.read_text())
    platforms = document["environments"]["cpu"]["platforms"]
    document["environments"]["cpu"]["platforms"] = {"linux-64": platforms["linux-64"]}
    layout.matrix.write_text(yaml.safe_dump(document, sort_keys=False))
    template = layout.root / "environment-gpu.yml"
    template.write_text(template.read_text().replace("  - numpy\n", "  - numpy\n  - pandas\n"))
    (layout.locks / "cpu" / "conda-linux-64.lock").unlink()
    (layout.locks / "cpu" / "pixi.lock").write_bytes(b"version: 6\r\n\xff\xfe\r\n")
    (layout.locks / "gpu-cu118" / "conda-linux-64.lock.sig").write_text("signed, me")
    # Larger than what is read of a lock: it is not sent, and this machine checks the environment.
    with (layout.locks / "gpu-cu121" / "pixi.lock").open("r+b") as file:
        file.truncate(33 << 20)
    (layout.locks / "gpu-cu99").mkdir()
    return layout.root


def test_a_fleet_finds_what_this_machine_finds_also_if_a_worker_dies(
    cluster: Cluster, damaged: Path, tmp_path: Path
) -> None:
    here = torchlocks(damaged, "check", "--format", "json")
    found = json.loads(here.stdout)
    assert here.returncode == 61, here.stderr
    assert {"unreadable", "file-missing", "file-unknown", "platform-unknown", "signature-stale", "stale"} | {
        "request-unmet",
        "parity-requests",
    } <= {finding["rule"] for finding in found["findings"]}
    assert found["skipped"]
    (tmp_path / "dies.py").write_text(DIES)
    mortal = cluster.worker("mortal", preload=str(tmp_path / "dies.py"))
    there = torchlocks(damaged, "check", "--format", "json", "--scheduler", cluster.address)
    assert mortal.wait(timeout=30) == 9, "it got no task"
    assert (there.returncode, there.stdout, there.stderr) == (here.returncode, here.stdout, here.stderr)
    one = ("check", "--env", "gpu-cu118", "--rule", "parity-requests", "--scheduler", cluster.address)
    alone = torchlocks(damaged, *one)
    parity = [each["message"] for each in found["findings"] if each["rule"] == "parity-requests"]
    assert (alone.returncode, parity[0] in alone.stdout) == (61, True), alone.stdout
    assert "Checking: 1," in alone.stderr


def test_check_without_a_scheduler_does_not_import_dask(tmp_path: Path) -> None:
    script = (
        "import sys; from torchlocks.cli.commands.root import root; from torchlocks.cli.verbs import VERBS\n"
        "try: root(VERBS).main(['check'], standalone_mode=False)\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    checkout = small_matrix(tmp_path, 1).root
    run = subprocess.run([sys.executable, "-c", script], cwd=checkout, capture_output=True, text=True, check=False)
    assert "1 lock, 0 packages" in run.stdout, run.stderr
    imported = set(run.stderr.split())
    assert "torchlocks.check.repository" in imported
    assert not {"distributed", "dask", "torchlocks.check.messages"} & imported


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("matrix.yml",), "files are named"),
        (("--snapshot", "."), "--snapshot"),
    ],
)
def test_a_scheduler_checks_the_committed_locks_and_nothing_else(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    run = torchlocks(small_matrix(tmp_path, 1).root, "check", "--scheduler", "tcp://127.0.0.1:9", *arguments)
    assert (run.returncode, said in run.stderr) == (2, True), run.stderr


def test_outside_of_a_checkout_a_scheduler_has_nothing_to_check(tmp_path: Path) -> None:
    run = torchlocks(tmp_path, "check", "--scheduler", "tcp://127.0.0.1:9")
    assert (run.returncode, "checkout" in run.stderr) == (2, True), run.stderr


def test_a_fleet_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    matrix = small_matrix(tmp_path, 1)
    for address, said in (("tcp://127.0.0.1:9", "does not answer"), ("nonsense://here", "does not answer")):
        run = lock(matrix, "--scheduler", address)
        assert run.returncode == 52
        assert said in run.stderr
        assert address in run.stderr
    assert not matrix.locks
    run = torchlocks(matrix.root, "check", "--scheduler", "nonsense://here")
    assert run.returncode == 52
    assert "nonsense://here" in run.stderr


def test_when_all_workers_are_lost_and_none_comes_the_run_ends(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    matrix = small_matrix(tmp_path / "matrix", 1)
    target = load_matrix(matrix.root / "matrix.yml").targets()[0]
    task = CellTask(
        run="r", target=target, rendered="", source=RecordSource(snapshot=matrix.snapshot), solver=find_solver()
    )

    def work_on(only: subprocess.Popen[bytes]) -> None:
        with open_cluster(cluster.address, [], patience=2) as pool:
            only.send_signal(signal.SIGSTOP)
            future = pool.submit(solve_cell, task)
            time.sleep(0.5)
            only.kill()
            future.result(timeout=120)

    try:
        only = cluster.worker("only")
        with pytest.raises(FleetError, match="was lost"):
            work_on(only)
    finally:
        cluster.stop()


FORGED = """
import os
from torchlocks.dask import worker

class Trap:
    def __reduce__(self):
        return os.mkdir, ({trap!r},)

def perform(request):
    {body}

worker.perform = perform
"""


@pytest.mark.parametrize(
    "body",
    [
        "return Trap()",
        'return b\'{"schema": 1, "cell": {}}\'',
        "raise OSError('disk on fire')",
    ],
)
def test_a_forged_or_failing_worker_is_an_error_with_its_name(tmp_path: Path, body: str) -> None:
    alone = Cluster(tmp_path)
    try:
        trap = tmp_path / "trap"
        (tmp_path / "forged.py").write_text(FORGED.format(trap=str(trap), body=body))
        alone.worker("mallory", preload=str(tmp_path / "forged.py"))
        matrix = small_matrix(tmp_path / "matrix", 1)
        run = lock(matrix, "--scheduler", alone.address)
        assert run.returncode == 52, run.stderr
        assert "mallory" in run.stderr
        assert not matrix.locks
        assert not trap.exists(), "what came back was unpickled"
    finally:
        alone.stop()


@pytest.fixture
def installed(copy_checkout: Callable[[], Checkout]) -> Checkout:
    checkout = copy_checkout()
    made = checkout.run("env", "cpu", "--channel", "local")
    assert made.returncode == 0, made.stderr
    return checkout


def test_every_node_verifies_and_one_command_collects_the_verdicts(cluster: Cluster, installed: Checkout) -> None:
    two = cluster.worker("two")
    try:
        arguments = ("verify", "cpu", "--scheduler", str(cluster.file), "--per", "worker")
        good = torchlocks(installed.root, *arguments, "--json")
        assert good.returncode == 0, good.stderr
        assert [(each["node"], each["ok"]) for each in json.loads(good.stdout)] == [("one", True), ("two", True)]
        report = json.loads((installed.root / "reports" / "cpu@two.json").read_text())
        assert (
            report["lock_sha256"]
            == json.loads((installed.root / "reports" / "cpu@one.json").read_text())["lock_sha256"]
        )
        record = next((installed.prefix / "conda-meta").glob("numpy-*.json"))
        record.rename(record.with_suffix(".gone"))
        bad = torchlocks(installed.root, *arguments)
        assert bad.returncode == 60
        assert "not verified on 2 of 2: one, two" in bad.stderr
        assert "FAILED" in bad.stdout
    finally:
        two.kill()
        two.wait()


def test_a_node_can_install_the_lock_on_its_own_disk(cluster: Cluster, copy_checkout: Callable[[], Checkout]) -> None:
    checkout = copy_checkout()
    shutil.rmtree(checkout.root / "locks" / "cpu")
    # What can be fetched without a network: the local channel's lock in the place of the committed one.
    shutil.copytree(LAYOUT.local_locks / "cpu", checkout.root / "locks" / "cpu")
    run = torchlocks(checkout.root, "verify", "cpu", "--scheduler", cluster.address, "--per", "worker", "--install")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("one (")
    report = json.loads((checkout.root / "reports" / "cpu@one.json").read_text())
    assert Path(report["prefix"]).is_relative_to(cluster.folder / "one")
    assert not checkout.prefix.parent.exists(), "nothing is installed on the machine that asks"

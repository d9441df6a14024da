"""Exports where they are meant to be used: a Slurm of one node, module commands, a container build.

The programs are Debian's (slurm-wlm, munge, environment-modules, lmod, buildah, debootstrap). Where one is missing, its
test is skipped; those that take minutes are in the long form.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import LAYOUT
from preloaded import TORCHLOCKS, run_torchlocks
from tiny_channel import PLATFORM, make_channel
from torchlocks.core.progress import Silent
from torchlocks.export.environment import LockedTarget, find_locked
from torchlocks.export.formats import FORMATS, export
from torchlocks.export.render import Place
from torchlocks.export.scripts import MICROMAMBA
from torchlocks.host.detect import host_platform
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.installer import InstallOptions, install_environment
from torchlocks.install.provenance import Origin

SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))
pytestmark = pytest.mark.skipif(host_platform() != PLATFORM, reason=f"for {PLATFORM}")


def needs(*programs: str) -> pytest.MarkDecorator:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


slow = pytest.mark.skipif(not SLOW, reason="takes minutes: TORCHLOCKS_SLOW=1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[LockedTarget, Path]:
    """A tiny environment, and its lock; with nothing in it that only torchlocks writes."""
    folder = tmp_path_factory.mktemp("cluster")
    channel = make_channel(folder / "channel")
    channel.package("activated", {"etc/conda/activate.d/tiny.sh": "export TINY=$CONDA_PREFIX/share\n"})
    lock = channel.lock()
    options = InstallOptions(fetch=FetchOptions(cache=folder / "cache"))
    prefix = folder / "tiny"
    origin = Origin(name="tiny", channel="local")
    install_environment(lock, PLATFORM, prefix, provenance=origin, options=options, progress=Silent())
    (prefix / "conda-meta" / "torchlocks").unlink()
    packages = tuple(sorted(lock.packages[PLATFORM], key=lambda package: package.name))
    target = LockedTarget(
        name="tiny", platform=PLATFORM, lock=lock, packages=packages, target=None, platforms=(PLATFORM,)
    )
    return target, prefix


# --- batch scripts ----------------------------------------------------------------------------------------------------


def test_a_batch_script_knows_an_environment_of_any_client(tiny: tuple[LockedTarget, Path], tmp_path: Path) -> None:
    locked, prefix = tiny
    script = tmp_path / "tiny.sbatch"
    script.write_text(export(FORMATS["slurm"], [locked], Place(prefix=str(prefix))))

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(script), "sh", "-c", 'echo "$TINY"; python']
        environment = {"PATH": os.environ["PATH"], **variables}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    done = run()
    assert (done.returncode, done.stdout) == (0, f"{prefix}/share\ntiny\n"), done.stderr
    # Other packages, one more, or none.
    other = tmp_path / "other"
    shutil.copytree(prefix, other, symlinks=True)
    assert run(TORCHLOCKS_PREFIX=str(other)).returncode == 0
    (other / "conda-meta" / "einops-0.8-0.json").write_text("{}")
    assert run(TORCHLOCKS_PREFIX=str(other)).returncode == 1
    assert run(TORCHLOCKS_PREFIX=str(tmp_path / "nothing")).returncode == 1
    assert str(tmp_path / "nothing") in run(TORCHLOCKS_PREFIX=str(tmp_path / "nothing")).stderr


def test_an_export_reports_a_missing_environment(tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        command = ["export", "gpu-cu126", "--platform", "linux-64", *arguments]
        run = run_torchlocks(command, cwd=LAYOUT.root, env={**os.environ, "TORCHLOCKS_HOME": str(tmp_path)})
        run.check_returncode()
        return run.stderr

    assert str(tmp_path / "envs" / "gpu-cu126") in said("--format", "slurm")
    assert "no environment" not in said("--format", "slurm", "--prefix", "/shared/envs/torch")
    assert "no environment" not in said("--format", "explicit")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Slurm of one node on loopback: munged, slurmctld, slurmd. Gives its configuration."""
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons run as root")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    node, (controller, daemon) = socket.gethostname().partition(".")[0], free_ports(2)
    configuration = folder / "slurm.conf"
    settings = {
        "ClusterName": "one",
        "SlurmctldHost": f"{node}(127.0.0.1)",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder / 'munge'}",
        "SlurmctldPort": controller,
        "SlurmdPort": daemon,
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "MpiDefault": "none",
        "ReturnToService": 2,
    }
    cores = os.cpu_count() or 1
    lines = [f"{name}={value}" for name, value in settings.items()]
    lines += [f"NodeName={node} NodeAddr=127.0.0.1 CPUs={cores} CoresPerSocket={cores} State=UNKNOWN"]
    lines += [f"PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP"]
    configuration.write_text("\n".join(lines) + "\n")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    environment = {**os.environ, "SLURM_CONF": str(configuration), "PATH": path}
    files = {name: f"--{name}-file={folder / name}" for name in ("key", "seed", "log", "pid")}
    pids = []
    try:
        for command in (
            ["munged", "--force", f"--socket={folder / 'munge'}", *files.values()],
            ["slurmctld", "-c"],
            ["slurmd"],
        ):
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
        for _ in range(60):
            seen = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
            if seen.stdout.strip() == "idle":
                break
            time.sleep(0.5)
        else:
            pytest.skip(f"Slurm does not start here: {seen.stdout}{seen.stderr}{(folder / 'slurmd.log').read_text()}")
        yield configuration
    finally:
        for name in ("slurmd.pid", "slurmctld.pid", "pid"):
            if (folder / name).is_file():
                pids.append(int((folder / name).read_text()))
                os.kill(pids[-1], signal.SIGTERM)


@slow
@needs("sbatch", "srun", "slurmctld", "slurmd", "munged")
def test_a_batch_job_runs_in_the_environment(slurm: Path, environment: Path, tmp_path: Path) -> None:
    locked = find_locked(str(LAYOUT.local_locks / "cpu" / "conda-lock.yml"), PLATFORM)
    script = tmp_path / "cpu.sbatch"
    script.write_text(export(FORMATS["slurm"], [locked], Place(prefix=str(environment))))
    variables = {**os.environ, "SLURM_CONF": str(slurm)}
    out = tmp_path / "out.txt"
    cores = str(min(2, os.cpu_count() or 1))
    options = ["sbatch", "--wait", f"--cpus-per-task={cores}", f"--output={out}", f"--chdir={tmp_path}"]
    subprocess.run([*options, str(script)], env=variables, check=True, timeout=300)
    assert out.read_text().startswith("torch 2.")
    source = "import json, os, sys; print(json.dumps([sys.prefix, os.environ['SRUN_CPUS_PER_TASK']]))"
    subprocess.run([*options, str(script), "python", "-c", source], env=variables, check=True, timeout=300)
    assert json.loads(out.read_text()) == [str(environment), cores]
    failed = subprocess.run([*options, str(script)], env={**variables, "TORCHLOCKS_PREFIX": "/nowhere"}, timeout=300)
    assert failed.returncode == 1
    assert "/nowhere does not hold the environment" in out.read_text()


@slow
@needs("sbatch", "slurmctld", "slurmd", "munged")
@pytest.mark.skipif(importlib.util.find_spec("dask_jobqueue") is None, reason="dask-jobqueue is not installed")
def test_workers_that_dask_jobqueue_starts_verify_an_environment(
    slurm: Path, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script of docs/fleet.md, without its kinds of GPU."""
    source = f"""
import subprocess, sys
from dask_jobqueue.slurm import SLURMCluster
from distributed import Client

if __name__ == "__main__":
    cluster = SLURMCluster(
        cores=1, processes=1, memory="2GB", walltime="00:10:00", python=sys.executable,
        job_extra_directives=["--mem=0"],
        local_directory={str(tmp_path)!r}, log_directory={str(tmp_path)!r}, scheduler_options={{"host": "127.0.0.1"}},
    )
    cluster.scale(jobs=1)
    with Client(cluster) as client:
        client.wait_for_workers(1, timeout=120)
        command = [{str(TORCHLOCKS)!r}, "verify", "cpu", "-k", "test_static", "--json"]
        done = subprocess.run([*command, "--scheduler", cluster.scheduler_address], cwd={str(LAYOUT.root)!r})
    cluster.close()
    sys.exit(done.returncode)
"""
    (tmp_path / "verify.py").write_text(source)
    variables = {**os.environ, "SLURM_CONF": str(slurm)}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "verify.py")], env=variables, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"ok": true' in done.stdout


# --- modules ----------------------------------------------------------------------------------------------------------

MODULES = {
    "Environment Modules": Path("/usr/share/modules/init/bash"),
    "Lmod": Path("/usr/share/lmod/lmod/init/bash"),
}


@pytest.mark.parametrize(
    "init",
    [
        pytest.param(path, id=name, marks=pytest.mark.skipif(not path.is_file(), reason=f"{name} is not installed"))
        for name, path in MODULES.items()
    ],
)
def test_a_modulefile_loads_and_unloads(init: Path, tiny: tuple[LockedTarget, Path], tmp_path: Path) -> None:
    locked, prefix = tiny
    (tmp_path / "modules" / "torch").mkdir(parents=True)
    (tmp_path / "modules" / "torch" / "tiny").write_text(export(FORMATS["module"], [locked], Place(prefix=str(prefix))))
    (tmp_path / "modules" / "torch" / "gone").write_text(export(FORMATS["module"], [locked], Place(prefix="/nowhere")))

    def run(*lines: str) -> subprocess.CompletedProcess[str]:
        script = "\n".join([f". {init}", f"module use {tmp_path / 'modules'}", *lines])
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})

    loaded = run(
        "module load torch/tiny",
        "command -v python",
        "echo $CONDA_PREFIX",
        "module unload torch",
        "echo [$CONDA_PREFIX]",
    )
    assert loaded.stdout.splitlines() == [f"{prefix}/bin/python", str(prefix), "[]"], loaded.stderr
    gone = run("module load torch/gone", "echo [$CONDA_PREFIX]")
    assert "There is no environment in /nowhere" in gone.stderr + gone.stdout
    assert gone.stdout.splitlines()[-1] == "[]"


# --- container builds -------------------------------------------------------------------------------------------------

STAND_IN = '''#!/usr/bin/python3
"""Stands in for micromamba, which no registry of Debian's or Python's has: `install --file` through py-rattler."""
import asyncio, json, sys
from pathlib import Path
from urllib.parse import urlsplit
sys.path.insert(0, "/opt/rattler")
from rattler import PackageRecord, RepoDataRecord, install

def record(line):
    url = line.partition("#")[0]
    file = Path(urlsplit(url).path)
    index = json.loads((file.parent / "repodata.json").read_bytes())
    found = {**index.get("packages", {}), **index.get("packages.conda", {})}[file.name]
    (Path("/tmp") / "index.json").write_text(json.dumps(found))
    sha256 = line.rpartition("#")[2].removeprefix("sha256:")
    assert sha256 == found["sha256"], file
    own = PackageRecord.from_index_json("/tmp/index.json", size=found["size"], sha256=sha256)
    return RepoDataRecord(own, file.name, url, url.rsplit("/", 2)[0])

if sys.argv[1] == "install":
    assert sys.argv[2:5] == ["--yes", "--name", "base"] and sys.argv[5] == "--file", sys.argv
    lines = [line.strip() for line in open(sys.argv[6]) if "://" in line and not line.startswith("#")]
    records = [record(line) for line in lines]
    asyncio.run(install(records, "/opt/conda", cache_dir=Path("/tmp/cache"), show_progress=False))
'''


@slow
@needs("buildah", "debootstrap")
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="py-rattler is shared with the Python of Debian 12")
def test_the_dockerfile_builds_and_its_image_imports_torch(environment: Path, tmp_path: Path) -> None:
    def run(*command: str | Path) -> str:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    root = tmp_path / "bookworm"
    run("debootstrap", "--variant=minbase", "--include=python3,ca-certificates", "bookworm", root)
    run(Path(sys.executable).with_name("uv"), "pip", "install", "--target", root / "opt" / "rattler", "py-rattler<0.29")
    (root / "usr/local/bin/micromamba").write_text(STAND_IN)
    (root / "usr/local/bin/micromamba").chmod(0o755)
    run("tar", "-C", root, "-cf", tmp_path / "base.tar", ".")
    shutil.rmtree(root)
    storage = ("buildah", "--storage-driver", "vfs", "--root", tmp_path / "storage", "--runroot", tmp_path / "run")
    base = run(*storage, "from", "scratch").strip()
    run(*storage, "add", base, tmp_path / "base.tar", "/")
    run(*storage, "config", "--env", "MAMBA_ROOT_PREFIX=/opt/conda", "--env", "MAMBA_USER=root", base)
    # The image that the Dockerfile names, by what takes its place here.
    run(*storage, "commit", "--rm", base, f"docker.io/mambaorg/micromamba:{MICROMAMBA}")
    locked = find_locked(str(LAYOUT.local_locks / "cpu" / "conda-lock.yml"), PLATFORM)
    (tmp_path / "context").mkdir()
    for form in ("explicit", "dockerfile"):
        text = export(FORMATS[form], [locked], Place(prefix=""))
        (tmp_path / "context" / FORMATS[form].file_for(locked)).write_text(text)
    channel = f"{LAYOUT.channel}:{LAYOUT.channel}:ro"
    build = ("bud", "--isolation", "chroot", "--pull-never", "-v", channel, "-t", "torch")
    run(*storage, *build, "-f", tmp_path / "context" / "Dockerfile", tmp_path / "context")
    container = run(*storage, "from", "localhost/torch").strip()
    inside = ("run", "--isolation", "chroot", "-v", f"{LAYOUT.suite}:/suite:ro", container, "--", "python", "-I")
    suite = ("/suite/torchsuite/__main__.py", "--expect", "cpu", "--tier", "import", "--json")
    report = json.loads(run(*storage, *inside, *suite))
    assert report["prefix"] == "/opt/conda"
    outcomes = [each["outcome"] for each in report["checks"] if each["tier"] == "import"]
    assert outcomes.count("passed") >= 10
    assert not {"failed", "error"} & set(outcomes)

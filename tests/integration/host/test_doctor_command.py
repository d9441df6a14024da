"""The doctor and its gate as commands, on this machine and with a stand-in of NVML, a library that is really loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import LAYOUT
from preloaded import TORCHLOCKS, run_torchlocks
from torchlocks.core.errors import ChannelUnreachableError, HostRecordError, UnfitHostError
from torchlocks.lockfile.formats import read_lock

STAND_IN = Path(__file__).parents[1].joinpath("nvml_stand_in.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")

#: No variable of this machine takes part: neither overrides, nor GPUs that are hidden.
_NOT_MEANT = ("CONDA_OVERRIDE_", "CUDA_VISIBLE_DEVICES", "CONDA_SUBDIR", "LD_LIBRARY_PATH")


def environment_of(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_MEANT)}
    nowhere = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"), nowhere)
    return {**own, **proxies, "NO_PROXY": "", "no_proxy": "", "COLUMNS": "80", **more}


def torchlocks(made: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `torchlocks` on this checkout, with what it makes in `made`, as a user without any network would."""
    return run_torchlocks(arguments, cwd=LAYOUT.root, env=environment_of(TORCHLOCKS_HOME=str(made), **environ))


def unwrapped(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libnvidia-ml.so.1."""
    if COMPILER is None or not sys.platform.startswith("linux"):
        pytest.skip("NVML's stand-in needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    library = folder / "libnvidia-ml.so.1"
    command = [COMPILER, "-shared", "-fPIC", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1", "-o"]
    subprocess.run([*command, str(library), str(STAND_IN)], check=True)
    return folder


def test_the_doctor_looks_at_this_machine(tmp_path: Path) -> None:
    run = torchlocks(tmp_path, "doctor", CONDA_OVERRIDE_CUDA="")
    assert run.returncode == 0
    assert "cpu*" in run.stdout
    assert "no driver here" in run.stdout
    assert "torchlocks env cpu" in run.stdout
    assert "\n- Build a CUDA environment here for a machine that has a GPU: torchlocks env gpu --cuda" in run.stdout


def test_a_terminal_that_is_not_of_unicode_gets_escapes(tmp_path: Path) -> None:
    run = torchlocks(tmp_path, "doctor", CONDA_OVERRIDE_CUDA="", PYTHONIOENCODING="ascii")
    assert (run.returncode, run.stderr) == (0, "")
    assert "--cuda \\u2026" in run.stdout
    document = torchlocks(tmp_path, "doctor", "--json", CONDA_OVERRIDE_CUDA="", PYTHONIOENCODING="ascii").stdout
    assert any("--cuda …" in advice for advice in json.loads(document)["advice"])


def test_the_doctor_asks_nvml(tmp_path: Path, stand_in: Path) -> None:
    run = torchlocks(tmp_path, "doctor", "--json", LD_LIBRARY_PATH=str(stand_in), STAND_IN_GPUS="80,61")
    assert run.returncode == 0, run.stderr
    host = json.loads(run.stdout)["host"]
    assert (host["driver"], host["cuda"]) == ("535.104.05", "12.2")
    assert [(gpu["name"], gpu["compute_capability"], gpu["memory_bytes"]) for gpu in host["gpus"]] == [
        ("Stand-in 0", "8.0", 2**34),
        ("Stand-in 1", "6.1", 2**34),
    ]


def test_the_doctor_and_rattler_see_the_same(tmp_path: Path, stand_in: Path) -> None:
    settings = {"LD_LIBRARY_PATH": str(stand_in), "STAND_IN_GPUS": "80,61", "STAND_IN_CUDA": "12020"}
    run = torchlocks(tmp_path, "doctor", "--json", **settings)
    code = (
        "from rattler import VirtualPackage, VirtualPackageOverrides as O\n"
        "for each in VirtualPackage.detect(O.from_env()): print(str(each.into_generic()).rsplit('=', 1)[0])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code],
        env=environment_of(**settings, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    virtual = json.loads(run.stdout)["virtual_packages"]
    assert f"__cuda={virtual['__cuda']}" in seen
    assert f"__cuda_arch={virtual['__cuda_arch']}" in seen
    assert f"__glibc={virtual['__glibc']}" in seen


def test_nvml_outside_of_the_linkers_path_is_found(tmp_path: Path, stand_in: Path) -> None:
    wsl = tmp_path / "usr" / "lib" / "wsl" / "lib"
    wsl.mkdir(parents=True)
    shutil.copy(stand_in / "libnvidia-ml.so.1", wsl)
    code = (
        "import json, sys; from dataclasses import asdict; from pathlib import Path\n"
        "from torchlocks.host.nvidia import nvidia_facts\n"
        "print(json.dumps(asdict(nvidia_facts(Path(sys.argv[1])))))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment_of(STAND_IN_DRIVER="551.61", STAND_IN_GPUS="86"),
        capture_output=True,
        text=True,
        check=True,
    )
    facts = json.loads(run.stdout)
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVML of its own, which comes first")
    assert (facts["driver"], len(facts["gpus"])) == ("551.61", 1)


def test_a_driver_and_library_that_do_not_match(tmp_path: Path, stand_in: Path) -> None:
    run = torchlocks(tmp_path, "doctor", LD_LIBRARY_PATH=str(stand_in), STAND_IN_INIT="18")
    assert run.returncode == 0
    assert "restart the machine" in unwrapped(run.stdout)


def test_a_host_record_is_checked_elsewhere(tmp_path: Path, stand_in: Path) -> None:
    there = torchlocks(tmp_path, "doctor", "--json", LD_LIBRARY_PATH=str(stand_in), STAND_IN_GPUS="90")
    record = tmp_path / "host.json"
    record.write_text(there.stdout, encoding="utf-8")
    here = torchlocks(tmp_path, "doctor", "--host", str(record))
    assert here.returncode == 0
    assert "Stand-in 0 (sm_90, 16 GiB)" in here.stdout
    assert "gpu-cu129*" in here.stdout
    again = torchlocks(tmp_path, "doctor", "--host", str(record), "--json")
    assert json.loads(again.stdout) == json.loads(there.stdout)


def test_a_host_record_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text("{}", encoding="utf-8")
    run = torchlocks(tmp_path, "doctor", "--host", str(tmp_path / "host.json"))
    assert run.returncode == HostRecordError.exit_code
    assert "platform" in run.stderr
    assert "fix:" in run.stderr


def test_a_driver_that_is_too_old_stops_before_anything_is_fetched(tmp_path: Path, stand_in: Path) -> None:
    settings = {"LD_LIBRARY_PATH": str(stand_in), "STAND_IN_GPUS": "80"}
    run = torchlocks(tmp_path, "env", "gpu", "--cuda", "13.1", **settings)
    assert run.returncode == UnfitHostError.exit_code
    assert "driver 535.104.05 is older than 580" in run.stderr
    assert "torchlocks env gpu --cuda 12.9" in run.stderr
    assert "Looking for" not in run.stderr
    assert not list(tmp_path.iterdir())


def test_auto_takes_what_the_driver_runs(tmp_path: Path, stand_in: Path) -> None:
    settings = {"LD_LIBRARY_PATH": str(stand_in), "STAND_IN_GPUS": "80"}
    run = torchlocks(tmp_path, "env", "gpu", "--channel", "conda-forge", **settings)
    assert "--cuda auto is 12.9" in run.stderr
    # The channel cannot be reached here, and that is said of the environment that was chosen.
    assert run.returncode == ChannelUnreachableError.exit_code
    assert "gpu-cu129" in run.stderr


def test_a_gpu_that_is_required(tmp_path: Path) -> None:
    run = torchlocks(tmp_path, "env", "gpu", "--cuda", "11.8", "--require-gpu", CONDA_OVERRIDE_CUDA="")
    assert run.returncode == UnfitHostError.exit_code
    assert "no NVIDIA driver" in run.stderr
    for option in (("--require-gpu",), ("--cuda", "12.4")):
        assert torchlocks(tmp_path, "env", "cpu", *option).returncode == 2


def test_a_lock_that_is_fine_and_a_channel_that_is_not(tmp_path: Path) -> None:
    mirror = ("--mirror", (tmp_path / "mirror").as_uri())
    settings = {"CONDA_OVERRIDE_CUDA": "", "TORCHLOCKS_CACHE": str(tmp_path / "cache")}
    run = torchlocks(tmp_path, "env", "gpu", "--cuda", "11.8", *mirror, **settings)
    said = unwrapped(run.stderr)
    assert run.returncode == ChannelUnreachableError.exit_code
    assert "The lock of gpu-cu118 is valid" in said
    count = len(read_lock(LAYOUT.locks / "gpu-cu118" / "conda-lock.yml").packages["linux-64"])
    assert re.search(rf"\b{count} packages, [\d.]+ GB to download, PyTorch 2\.\S+ for CUDA 11\.8", said), said
    for choice in ("--mirror URL", "torchlocks bundle gpu-cu118", "--channel local", "torchlocks env cpu"):
        assert choice in said
    assert "is built for another machine" in said
    assert f"nor from its mirror, {mirror[1]}/conda-forge/" in said


def test_a_mirror_that_is_no_url(tmp_path: Path) -> None:
    run = torchlocks(tmp_path, "env", "gpu", "--cuda", "11.8", "--mirror", str(tmp_path), CONDA_OVERRIDE_CUDA="")
    assert run.returncode == 2
    assert f"the folder is {tmp_path.as_uri()}" in run.stderr


def test_the_best_installed_environment_runs_the_command(environment: Path) -> None:
    run = subprocess.run(
        [str(TORCHLOCKS), "run", "auto", "python -c 'import sys; print(sys.prefix)'"],
        cwd=LAYOUT.root,
        env=environment_of(CONDA_OVERRIDE_CUDA=""),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(environment)
    assert "ENV=auto is cpu" in run.stderr


def test_nothing_installed_is_an_error(tmp_path: Path) -> None:
    run = torchlocks(tmp_path, "run", "auto", "true")
    assert run.returncode == 14
    assert "torchlocks env cpu" in run.stderr


def test_make_knows_the_verbs(environment: Path) -> None:
    make = ["make", "doctor"]
    run = subprocess.run(make, cwd=LAYOUT.root, env=environment_of(), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "gpu-cu118" in run.stdout
    listed = subprocess.run(
        ["make", "-n", "env-gpu", "CUDA=11.8", "REQUIRE_GPU=1"],
        cwd=LAYOUT.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "env gpu --cuda '11.8'" in listed.stdout
    assert "--require-gpu" in listed.stdout

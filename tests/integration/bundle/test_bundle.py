"""Bundles for real: made from tiny channels, carried elsewhere, installed with nothing but Python."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from conftest import LAYOUT, Checkout
from faulty_server import faulty_server
from preloaded import TORCHLOCKS
from support import borrow_bytecode, small_disk
from tiny_channel import PLACEHOLDER, PLATFORM, TinyChannel, conda_lock, locked_file, make_channel
from torchlocks.bundle.installer import zstd
from torchlocks.bundle.installer.command import host_platform as bundle_platform
from torchlocks.bundle.installer.command import main as install_bundle
from torchlocks.bundle.installer.extract import extract
from torchlocks.bundle.installer.files import Counted
from torchlocks.bundle.installer.model import BundleError
from torchlocks.bundle.installer.reading import read_bundle
from torchlocks.bundle.unpack import unpack_bundle
from torchlocks.bundle.write import Bundle, bundle_environment, make_bundle
from torchlocks.core.errors import (
    DiskFullError,
    FetchError,
    InstallError,
    IntegrityError,
    LockfileError,
    MissingFileError,
    NoSuchRowError,
)
from torchlocks.core.files import hash_file
from torchlocks.core.progress import Silent
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.fsck import fsck
from torchlocks.install.installer import InstallOptions, install_environment
from torchlocks.install.provenance import Origin, is_current, read_provenance
from torchlocks.lockfile.formats import read_lock
from torchlocks.lockfile.models import Lock, LockedPackage, pip_package

SILENT = Silent()
pytestmark = pytest.mark.skipif(bundle_platform() != PLATFORM, reason=f"the tiny packages are for {PLATFORM}")
# The Python of the system is the barest there is; without one, this one has to do.
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable


@dataclass(frozen=True)
class Ran:
    code: int
    said: str


def make(lock: Lock, output: Path, *, portable: bool = False, fetch: FetchOptions | None = None) -> Bundle:
    fetch = fetch or FetchOptions(cache=output.parent / "no-cache", retries=1, backoff_s=0.01)
    return make_bundle(lock, PLATFORM, output, name="tiny", fetch=fetch, progress=SILENT, portable=portable)


def unpacked(bundle: Bundle, folder: Path) -> Path:
    """The bundle's folder, unpacked below `folder` with tar, as a user would."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-xf", str(bundle.path), "-C", str(folder)], check=True)
    (inside,) = folder.iterdir()
    return inside


def run_installer(folder: Path, *arguments: str | Path, network: bool = True, **environment: str) -> Ran:
    """Run the bundle's installer with a bare Python: no site-packages, no environment variables for Python."""
    command = [PYTHON, "-I", "-S", str(folder / "install.py"), *map(str, arguments)]
    if not network:
        command = ["unshare", "--net", *command]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, **environment}
    )
    assert "Traceback" not in run.stderr, run.stderr
    return Ran(run.returncode, run.stdout + run.stderr)


def tree(prefix: Path) -> dict[str, tuple[str, str | int, str]]:
    """Every file of the environment: kind, mode or target, hash. Bytecode and the clients' own files do not count."""
    found: dict[str, tuple[str, str | int, str]] = {}
    for path in sorted(prefix.rglob("*")):
        name = path.relative_to(prefix).as_posix()
        if "__pycache__" in name or name.startswith("conda-meta") or name == "CACHEDIR.TAG":
            continue
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()), "")
        elif path.is_file():
            content = path.read_bytes().replace(os.fsencode(prefix), b"PREFIX")
            found[name] = ("file", path.stat().st_mode & 0o777, hashlib.sha256(content).hexdigest())
        else:
            found[name] = ("folder", "", "")
    return found


def install_with_rattler(lock: Lock, prefix: Path, cache: Path, *, offline: bool = False) -> None:
    install_environment(
        lock,
        PLATFORM,
        prefix,
        provenance=Origin(name="tiny", channel="local"),
        options=InstallOptions(fetch=FetchOptions(cache=cache, offline=offline)),
        progress=SILENT,
    )


def add_noarch(
    channel: TinyChannel, name: str, files: Mapping[str, str], entry_points: list[str], **index: object
) -> LockedPackage:
    """Add a noarch Python package with entry points, as conda-build makes it."""
    contents = {path: text.encode() for path, text in files.items()}
    paths = [
        {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(c).hexdigest(), "size_in_bytes": len(c)}
        for path, c in contents.items()
    ]
    said = {
        "name": name,
        "version": "1.0",
        "build": "py_0",
        "build_number": 0,
        "depends": ["python"],
        "subdir": "noarch",
    }
    info: dict[str, object] = {
        "info/index.json": {**said, "noarch": "python", **index},
        "info/paths.json": {"paths": paths, "paths_version": 1},
        "info/link.json": {"noarch": {"type": "python", "entry_points": entry_points}, "package_metadata_version": 1},
    }
    folder = channel.root / "noarch"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-1.0-py_0.tar.bz2"
    with tarfile.open(file, "w:bz2") as archive:
        for path, content in {**{path: json.dumps(each).encode() for path, each in info.items()}, **contents}.items():
            member = tarfile.TarInfo(path)
            member.size, member.mtime = len(content), 1704067200
            member.mode = 0o755 if path.startswith("python-scripts/") else 0o644
            archive.addfile(member, io.BytesIO(content))
    locked = locked_file(file, channel.root.as_uri(), "noarch", name, "1.0", "py_0")
    channel.packages.append(locked)
    return locked


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> TinyChannel:
    """A tiny channel with all that an installer has to get right: both formats, prefixes, links, modules, scripts."""
    made = make_channel(tmp_path_factory.mktemp("bundle") / "channel")
    made.raw(
        "gamma",
        {
            "bin/long": f"#!{PLACEHOLDER}/bin/python3.11 -E\nprint('{PLACEHOLDER}')\n",
            "bin/perl": f"#!{PLACEHOLDER}/bin/perl -w\n",
            "bin/plain": "#!/bin/sh\nexit 0\n",
            "lib/libtwo.so": f"\0a:{PLACEHOLDER}/x:{PLACEHOLDER}/y\0tail\0{PLACEHOLDER}".encode(),
            "share/empty": "",
            "share/deep/er/file": "x",
        },
        prefixed=["bin/long", "bin/perl", "bin/plain", "lib/libtwo.so"],
        links={"share/up": "deep/er/file", "share/deep/er/back": "../../empty", "share/dir": "deep"},
        depends=["alpha"],
    )
    add_noarch(
        made,
        "tools",
        {
            "site-packages/tools/__init__.py": "def main():\n    print('tools')\n",
            "python-scripts/helper": "#!/bin/sh\necho helper\n",
            "share/tools.txt": "data",
        },
        ["tools = tools:main", "tools-two=tools.sub:group.run"],
    )
    return made


@pytest.fixture(scope="session")
def lock(channel: TinyChannel) -> Lock:
    return channel.lock()


@pytest.fixture(scope="session")
def bundle(lock: Lock, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make(lock, tmp_path_factory.mktemp("made") / "tiny.tar")


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    return unpacked(bundle, tmp_path / "carried here")


# --- what is in a bundle ------------------------------------------------------------------------


def test_a_bundle_holds_the_archives_that_the_lock_names(bundle: Bundle, folder: Path, lock: Lock) -> None:
    assert bundle.packages == len(lock.packages[PLATFORM])
    assert bundle.sha256 == hashlib.sha256(bundle.path.read_bytes()).hexdigest()
    assert bundle.size == bundle.path.stat().st_size
    for package in lock.packages[PLATFORM]:
        content = (folder / "channel" / package.subdir / package.file_name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == package.sha256
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there - listed == {"SHA256SUMS"}
    inside = read_lock(folder / f"conda-{PLATFORM}.lock")
    assert {each.url: each.sha256 for each in inside.packages[PLATFORM]} == {
        each.url: each.sha256 for each in lock.packages[PLATFORM]
    }


def test_two_bundles_of_one_lock_are_equal(bundle: Bundle, lock: Lock, tmp_path: Path) -> None:
    assert make(lock, tmp_path / "again.tar").sha256 == bundle.sha256
    portable = [make(lock, tmp_path / f"{number}.tar", portable=True).sha256 for number in range(2)]
    assert portable[0] == portable[1] != bundle.sha256


def test_packages_are_fetched_and_the_same_bundle_comes_of_it(channel: TinyChannel, lock: Lock, tmp_path: Path) -> None:
    with faulty_server(channel.root) as server:
        server.faults["many"] = ("503", 1)
        served = channel.lock(base=server.url)
        made = make(served, tmp_path / "served.tar")
        assert server.requests["many-1.0-0.conda"] == 2
    inside = unpacked(made, tmp_path / "served")
    for package in lock.packages[PLATFORM]:
        content = (inside / "channel" / package.subdir / package.file_name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == package.sha256
    assert sorted(each.name for each in tmp_path.iterdir()) == ["served", "served.tar"]


def test_credentials_stay_where_they_are(channel: TinyChannel, tmp_path: Path) -> None:
    with faulty_server(channel.root) as server:
        lock = channel.lock(base=server.url.replace("http://", "http://user:open-sesame@"))
        made = make(lock, tmp_path / "b.tar")
    assert b"open-sesame" not in made.path.read_bytes()
    assert run_installer(unpacked(made, tmp_path / "b"), tmp_path / "env").code == 0


def test_the_committed_lockfiles_are_in_it_unchanged(channel: TinyChannel, tmp_path: Path) -> None:
    env = tmp_path / "locks"
    env.mkdir()
    file = env / "conda-lock.yml"
    text = conda_lock(channel, file).read_text()
    lock = read_lock(file)
    inside = unpacked(make(lock, tmp_path / "b.tar"), tmp_path / "b")
    assert (inside / "conda-lock.yml").read_text() == text
    assert run_installer(inside, tmp_path / "env").code == 0
    # torchlocks itself takes the result for an installation of that very lock.
    assert is_current(tmp_path / "env", lock.sha256, PLATFORM)
    file.write_text(text + "# changed\n")
    with pytest.raises(LockfileError, match="changed since"):
        make(lock, tmp_path / "c.tar")


def test_its_channel_serves_a_conda_client(folder: Path, lock: Lock, tmp_path: Path) -> None:
    from rattler import Gateway, Subdir, solve

    found = asyncio.run(
        solve(
            [(folder / "channel").as_uri()],
            ["many", "tools"],
            Gateway(tmp_path / "repodata"),
            [Subdir(PLATFORM), Subdir("noarch")],
        )
    )
    assert {each.name.normalized for each in found} == {"many", "tools", "alpha", "python"}
    assert all(each.url.startswith(folder.parent.as_uri()) for each in found)


def test_windows_bundles_have_the_launcher_of_scripts(channel: TinyChannel, tmp_path: Path) -> None:
    noarch = [each for each in channel.packages if each.subdir == "noarch"]
    lock = replace(channel.lock(), packages={"win-64": tuple(noarch)})
    made = make_bundle(lock, "win-64", tmp_path / "w.tar", name="w", fetch=FetchOptions(), progress=SILENT)
    assert (unpacked(made, tmp_path / "w") / "launcher.exe").read_bytes()[:2] == b"MZ"
    said = run_installer(tmp_path / "w" / "w-win-64", tmp_path / "env")
    assert said.code == 1
    assert "is for win-64" in said.said


# --- what cannot be bundled ---------------------------------------------------------------------


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_wrong_bytes_in_the_channel_make_no_bundle(lock: Lock, channel: TinyChannel, tmp_path: Path) -> None:
    copy = tmp_path / "channel"
    shutil.copytree(channel.root, copy)
    file = copy / PLATFORM / "many-1.0-0.conda"
    file.write_bytes(flipped(file.read_bytes(), 100))
    output = tmp_path / "out" / "tiny.tar"
    output.parent.mkdir()
    output.write_bytes(b"the older one")
    with pytest.raises(IntegrityError, match=r"many-1\.0-0\.conda differs from the lock"):
        make(channel.lock(base=copy.as_uri()), output)
    assert output.read_bytes() == b"the older one"
    assert [each.name for each in output.parent.iterdir()] == ["tiny.tar"]


def test_what_has_the_locked_hash_but_is_no_package_makes_no_bundle(tmp_path: Path) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("good", {"share/x": "x"})
    file = channel.root / PLATFORM / "bad-1.0-0.conda"
    file.write_bytes(b"not a zip file")
    channel.packages.append(locked_file(file, channel.root.as_uri(), PLATFORM, "bad", "1.0", "0"))
    for portable in (False, True):
        with pytest.raises(IntegrityError, match=r"has the locked hash|cannot be (read|extracted)|are not packages"):
            make(channel.lock(), tmp_path / "out" / "b.tar", portable=portable)
        assert list((tmp_path / "out").iterdir()) == []


def test_a_lock_without_sha256_or_of_another_platform_is_refused(lock: Lock, tmp_path: Path) -> None:
    weak = [replace(each, sha256=None) for each in lock.packages[PLATFORM]]
    with pytest.raises(IntegrityError, match="MD5"):
        make(replace(lock, packages={PLATFORM: tuple(weak)}), tmp_path / "b.tar")
    with pytest.raises(LockfileError, match="no conda packages for win-64"):
        make_bundle(lock, "win-64", tmp_path / "b.tar", name="x", fetch=FetchOptions(), progress=SILENT)
    with pytest.raises(LockfileError, match="for pip"):
        make(replace(lock, pip={PLATFORM: (pip_package("six", "1.0"),)}), tmp_path / "b.tar")
    assert list(tmp_path.iterdir()) == []


def test_offline_packages_of_another_machine_cannot_be_bundled(channel: TinyChannel, tmp_path: Path) -> None:
    lock = channel.lock(base="http://127.0.0.1:9/channel")
    with pytest.raises(FetchError, match="6 of 6 packages would have to be downloaded"):
        make(lock, tmp_path / "b.tar", fetch=FetchOptions(offline=True))


def test_too_small_a_disk_is_reported_before_anything_is_fetched(lock: Lock, tmp_path: Path) -> None:
    huge = [replace(each, size=10**15) for each in lock.packages[PLATFORM]]
    with pytest.raises(DiskFullError, match="needs"):
        make(replace(lock, packages={PLATFORM: tuple(huge)}), tmp_path / "b.tar")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_reported(lock: Lock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallError, match="cannot be written"):
        make(lock, tmp_path / "file" / "b.tar")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InstallError, match="this is a folder"):
        make(lock, tmp_path / "folder")


def test_environments_that_are_not_there_are_reported(tmp_path: Path) -> None:
    with pytest.raises(NoSuchRowError):
        bundle_environment(LAYOUT, "gpu-cu999", PLATFORM, fetch=FetchOptions(), progress=SILENT)
    layout = replace(LAYOUT, root=tmp_path)
    shutil.copy(LAYOUT.matrix, tmp_path)
    with pytest.raises(MissingFileError, match="no lock of cpu"):
        bundle_environment(layout, "cpu", PLATFORM, fetch=FetchOptions(), progress=SILENT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_keeps_the_older_bundle_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    channel = TinyChannel(tmp_path / "channel")
    for name in ("one", "two", "three"):
        channel.raw(name, {"share/noise": os.urandom(2_500_000)})
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.tar").write_bytes(b"the older one")
    told = tmp_path / "told.pickle"
    told.write_bytes(pickle.dumps((channel.lock(), out / "b.tar")))
    program = (
        "import pickle, sys; from pathlib import Path; sys.path[:0] = sys.argv[2:]; from test_bundle import make\n"
        "from torchlocks.core.errors import InterruptedByUserError\n"
        "lock, output = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "try:\n    make(lock, output, portable=True)\n"
        "except InterruptedByUserError:\n    sys.exit(130)\n"
    )
    command = [sys.executable, "-c", program, str(told), *map(str, Path(__file__).parents[:2])]
    running = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while running.poll() is None and not any(out.rglob("*.tar.bz2")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(number)
    assert running.wait(60) == 130
    assert [each.name for each in out.iterdir()] == ["b.tar"]
    assert (out / "b.tar").read_bytes() == b"the older one"


# --- installing with nothing but Python ---------------------------------------------------------


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("place", ["plain", "with a space", "n" * 130])
def test_the_installer_makes_the_very_tree_that_rattler_makes(
    lock: Lock, tmp_path: Path, portable: bool, place: str
) -> None:
    inside = unpacked(make(lock, tmp_path / "b.tar", portable=portable), tmp_path / "b")
    ours, theirs = tmp_path / place / "ours", tmp_path / place / "them"
    said = run_installer(inside, ours, *(["--unproven"] if portable else []))
    assert said.code == 0, said.said
    install_with_rattler(lock, theirs, tmp_path / "pkgs")
    assert tree(ours) == tree(theirs)
    assert fsck(ours, progress=SILENT).ok
    assert {each.name for each in ours.parent.iterdir()} == {"ours", "them", ".them.lock"}


def test_its_records_are_those_that_rattler_writes(lock: Lock, folder: Path, tmp_path: Path) -> None:
    from rattler import PrefixRecord

    ours, theirs = tmp_path / "ours", tmp_path / "them"
    assert run_installer(folder, ours).code == 0
    install_with_rattler(lock, theirs, tmp_path / "pkgs")
    for file in sorted((theirs / "conda-meta").glob("*.json")):
        expected = json.loads(file.read_text())
        found = json.loads((ours / "conda-meta" / file.name).read_text())
        for key in ("name", "version", "build", "subdir", "url", "fn", "channel", "sha256", "md5", "size", "depends"):
            assert found.get(key) == expected.get(key), (file.name, key)
        assert sorted(found["files"]) == sorted(expected["files"])
        kinds = [{each["_path"]: each["path_type"] for each in r["paths_data"]["paths"]} for r in (found, expected)]
        assert kinds[0] == kinds[1]
        read = PrefixRecord.from_path(ours / "conda-meta" / file.name)
        assert read.name.normalized == expected["name"]
    history = (ours / "conda-meta" / "history").read_text()
    assert f"+channel/{PLATFORM}::alpha-1.0-0" in history
    provenance = read_provenance(ours)
    assert provenance is not None
    assert provenance.lock_sha256 == lock.sha256
    assert len(provenance.records) == len(lock.packages[PLATFORM])


def test_installed_scripts_run(folder: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "a place"
    assert run_installer(folder, prefix).code == 0
    for name in ("plain", "helper"):
        subprocess.run([str(prefix / "bin" / name)], check=True)
    # The tiny python is a shell script that says who it is.
    ran = subprocess.run([str(prefix / "bin" / "tools")], capture_output=True, text=True, check=True)
    assert ran.stdout == "tiny\n"


def test_every_python_of_this_machine_runs_it(folder: Path, tmp_path: Path) -> None:
    pythons = {minor: shutil.which(f"python3.{minor}") for minor in range(8, 20)} | {
        sys.version_info[1]: sys.executable
    }
    ran = []
    for minor, python in sorted(pythons.items()):
        # A launcher of pyenv may be there for a Python that is not.
        if python is None or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
            continue
        prefix = tmp_path / f"env-{minor}"
        command = [python, "-I", "-S", "-W", "error", str(folder / "install.py"), str(prefix)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (run.returncode, run.stderr) == (0, ""), minor
        assert fsck(prefix, progress=SILENT).ok
        ran.append(minor)
    assert sys.version_info[1] in ran


def test_an_older_python_gets_the_requirement(folder: Path, tmp_path: Path) -> None:
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [python for old in ("2.7.*", "3.[67].*") for python in versions.glob(f"{old}/bin/python")]
    if not found:
        pytest.skip("no Python 2.7, 3.6 or 3.7 of a pyenv is on this machine")
    for python in found:
        command = [str(python), str(folder / "install.py"), str(tmp_path / "env")]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert run.returncode == 1, python
        assert run.stderr.startswith("error: install.py needs Python 3.8 or newer"), python
        assert not (tmp_path / "env").exists()


def test_without_a_network_nothing_is_missing(folder: Path, tmp_path: Path) -> None:
    require_namespaces()
    said = run_installer(folder, tmp_path / "env", network=False)
    assert said.code == 0, said.said
    assert fsck(tmp_path / "env", progress=SILENT).ok


def require_namespaces() -> None:
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no network namespace can be made here: {probe.stderr.strip()}")


def test_two_packages_with_the_same_file_both_keep_it(tmp_path: Path) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("one", {"share/both": "one\n", "share/one": "1"})
    channel.raw("two", {"share/both": "two\n"}, depends=["one"])
    inside = unpacked(make(channel.lock(), tmp_path / "b.tar"), tmp_path / "b")
    said = run_installer(inside, tmp_path / "env")
    assert said.code == 0
    assert "both have share/both" in said.said
    assert fsck(tmp_path / "env", progress=SILENT).ok
    texts = {path.read_text() for path in (tmp_path / "env").rglob("both")}
    assert texts == {"one\n", "two\n"}


def test_a_post_link_script_is_reported_and_not_run(tmp_path: Path) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("pl", {"bin/.pl-post-link.sh": f"#!/bin/sh\ntouch '{tmp_path}/ran'\n"})
    inside = unpacked(make(channel.lock(), tmp_path / "b.tar"), tmp_path / "b")
    said = run_installer(inside, tmp_path / "env")
    assert said.code == 0
    assert "pl-1.0-0 has a post-link script, which is not run" in said.said
    assert not (tmp_path / "ran").exists()


def test_an_explicit_file_for_conda_clients_names_the_files_where_they_are(
    folder: Path, lock: Lock, tmp_path: Path
) -> None:
    said = run_installer(folder, "--explicit", tmp_path / "here.txt")
    assert said.code == 0, said.said
    here = read_lock(tmp_path / "here.txt")
    assert [each.sha256 for each in here.packages[PLATFORM]] == [each.sha256 for each in lock.packages[PLATFORM]]
    require = FetchOptions(cache=tmp_path / "pkgs")
    install_environment(
        here,
        PLATFORM,
        tmp_path / "env",
        provenance=Origin(name="tiny", channel="lock"),
        options=InstallOptions(fetch=require),
        progress=SILENT,
    )
    assert fsck(tmp_path / "env", progress=SILENT).ok


def test_the_command_for_machines_without_python_lists_every_package(folder: Path, lock: Lock) -> None:
    lines = (folder / "README.txt").read_text().splitlines()
    (command,) = (line.strip() for line in lines if line.strip().startswith("sed "))
    subprocess.run(["sh", "-c", command], cwd=folder, check=True)
    listed = (folder / "here.txt").read_text().splitlines()
    assert listed[0] == "@EXPLICIT"
    files = [Path(line.removeprefix("file://").partition("#")[0]) for line in listed[1:]]
    assert {file.name for file in files} == {each.file_name for each in lock.packages[PLATFORM]}
    assert [line.partition("#")[2] for line in listed[1:]] == [hash_file(file) for file in files]
    # A client that links in the order of the file needs Python before its modules.
    names = [file.name.partition("-")[0] for file in files]
    assert names.index("python") < names.index("beta")
    assert (folder / "packages.txt").name in (folder / "SHA256SUMS").read_text()


def test_the_readme_describes_how_to_use_and_to_check_the_environment(folder: Path) -> None:
    text = (folder / "README.txt").read_text()
    for command in ("PREFIX/bin/python", "conda activate PREFIX", "torchlocks verify PREFIX", "torchlocks fsck PREFIX"):
        assert command in text


def test_the_installer_shows_its_progress() -> None:
    said: list[str] = []
    counted = Counted("Checking files", 3, said.append, every=0)
    for _ in range(3):
        counted.advance()
    assert said == ["Checking files: 1 of 3", "Checking files: 2 of 3", "Checking files: 3 of 3"]
    quiet = Counted("Checking files", 3, said.append)
    quiet.advance()
    assert len(said) == 3, "at most a line each five seconds"


# --- what the installer refuses -----------------------------------------------------------------


def assert_refused(folder: Path, tmp_path: Path, words: str) -> None:
    """The installer refuses the bundle with these words, and leaves nothing behind."""
    place = tmp_path / "place"
    place.mkdir(exist_ok=True)
    said = run_installer(folder, place / "env")
    assert said.code == 1
    assert words in said.said, said.said
    assert "fix:" in said.said
    assert list(place.iterdir()) == []


def test_a_flipped_bit_in_any_file_is_found(folder: Path, tmp_path: Path) -> None:
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        # In the installer and the sums themselves, a flipped bit may break Python or the line.
        if file.name in ("install.py", "SHA256SUMS") or file.parent.name == "installer":
            continue
        file.write_bytes(flipped(content, len(content) // 2))
        said = run_installer(folder, "--check")
        assert said.code == 1, file
        file.write_bytes(content)
    assert run_installer(folder, "--check").code == 0


@pytest.mark.parametrize("where", ["SHA256SUMS", "bundle.json"])
def test_the_output_of_a_bundle_cannot_act_on_a_terminal(folder: Path, where: str) -> None:
    file = folder / where
    if where == "SHA256SUMS":
        file.write_text(file.read_text() + "0" * 64 + "  \x1b[2J\x07x\n")
    else:
        content = json.loads(file.read_text())
        content["packages"][0]["url"] += "\x1b[2J"
        file.write_text(json.dumps(content))
    said = run_installer(folder, "--check")
    assert said.code == 1
    assert said.said.replace("\n", "").isprintable()
    assert "\\x1b" in said.said


def test_a_missing_package_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "channel" / PLATFORM / "many-1.0-0.conda").unlink()
    assert_refused(folder, tmp_path, "many-1.0-0.conda cannot be read")


def test_a_package_that_the_lock_does_not_name_is_refused_even_with_new_sums(folder: Path, tmp_path: Path) -> None:
    file = folder / "channel" / PLATFORM / "many-1.0-0.conda"
    old = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(flipped(file.read_bytes(), 60))
    new = hashlib.sha256(file.read_bytes()).hexdigest()
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, new))
    assert_refused(folder, tmp_path, "disagree on channel/linux-64/many-1.0-0.conda")
    manifest = folder / "bundle.json"
    manifest.write_text(manifest.read_text().replace(old, new))
    assert_refused(folder, tmp_path, "the lock inside it disagree")


def test_something_at_the_prefix_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "env"
    prefix.mkdir()
    assert run_installer(folder, prefix).code == 0
    before = tree(prefix)
    said = run_installer(folder, prefix)
    assert said.code == 1
    assert "is not overwritten" in said.said
    assert tree(prefix) == before


def test_a_prefix_that_is_too_long_for_libraries_is_refused(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / ("x" * 150) / ("y" * 100)
    said = run_installer(folder, place / "env")
    assert said.code == 1
    assert "choose a shorter prefix" in said.said
    assert list(place.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("size", ["50k", "200k"])
def test_a_full_disk_is_reported_and_nothing_is_left_on_it(tmp_path: Path, size: str) -> None:
    channel = TinyChannel(tmp_path / "channel")
    # Packed it fits into 200 KB, extracted it does not.
    channel.raw("big", {"share/noise": os.urandom(70_000), "share/zeros": bytes(5_000_000)})
    inside = unpacked(make(channel.lock(), tmp_path / "b.tar"), tmp_path / "b")
    with small_disk(tmp_path / "small", size) as disk:
        said = run_installer(inside, disk / "env")
        assert said.code == 1
        assert "are free" in said.said or "No space left" in said.said
        assert list(disk.iterdir()) == []


def test_wrong_use_is_reported(folder: Path) -> None:
    assert run_installer(folder).code == 2
    assert run_installer(folder, "--check", "somewhere").code == 2


def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("big", {f"share/{number}": os.urandom(500) for number in range(4000)})
    inside = unpacked(make(channel.lock(), tmp_path / "b.tar"), tmp_path / "b")
    place = tmp_path / "place"
    place.mkdir()
    running = subprocess.Popen(
        [PYTHON, "-I", "-S", str(inside / "install.py"), str(place / "env")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while running.poll() is None and not any(place.rglob("share")):
        time.sleep(0.005)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "Interrupted" in said
    assert list(place.iterdir()) == []


Member = tuple[str, bytes, str]


def hostile(
    tmp_path: Path,
    member: Member | list[Member],
    *,
    index: Mapping[str, object] | None = None,
    listed: list[str] | None = None,
) -> Path:
    """An unpacked bundle with a package that has the locked hash and holds `member`: (path, content or target, type).

    No bundle is made of such a package, so the good one in it is replaced, and all hashes are written anew.
    """
    channel = TinyChannel(tmp_path / "channel")
    locked = channel.raw("evil", {"share/x": "x"})
    inside = unpacked(make(channel.lock(), tmp_path / "b.tar"), tmp_path / "b")
    file = inside / "channel" / PLATFORM / locked.file_name
    said = {"name": "evil", "version": "1.0", "build": "0", "subdir": PLATFORM, **(index or {})}
    paths = [{"_path": path, "path_type": "hardlink"} for path in listed or []]
    with tarfile.open(file, "w:bz2") as archive:
        for name, content in (("info/index.json", said), ("info/paths.json", {"paths": paths})):
            info = tarfile.TarInfo(name)
            data = json.dumps(content).encode()
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for path, data, kind in [member] if isinstance(member, tuple) else member:
            info = tarfile.TarInfo(path)
            info.type = kind.encode()
            if kind in (tarfile.SYMTYPE.decode(), tarfile.LNKTYPE.decode()):
                info.linkname = data.decode()
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    rehash(inside, {str(locked.sha256): hashlib.sha256(file.read_bytes()).hexdigest()})
    return inside


def rehash(inside: Path, changed: Mapping[str, str]) -> None:
    """Write other hashes into lock, manifest and sums, as someone who forges a bundle would."""
    for name in (f"conda-{PLATFORM}.lock", "bundle.json"):
        file = inside / name
        before = hashlib.sha256(file.read_bytes()).hexdigest()
        text = file.read_text()
        for old, new in changed.items():
            text = text.replace(old, new)
        file.write_text(text)
        changed = {**changed, before: hashlib.sha256(file.read_bytes()).hexdigest()}
    sums = inside / "SHA256SUMS"
    text = sums.read_text()
    for old, new in changed.items():
        text = text.replace(old, new)
    sums.write_text(text)


FILE, LINK, HARD = tarfile.REGTYPE.decode(), tarfile.SYMTYPE.decode(), tarfile.LNKTYPE.decode()


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (("../outside", b"x", FILE), "outside of the environment"),
        (("/tmp/torchlocks-outside", b"x", FILE), "outside of the environment"),
        (("share/../../outside", b"x", FILE), "outside of the environment"),
        (("C:\\outside", b"x", FILE), "outside of the environment"),
        (("..\\outside", b"x", FILE), "outside of the environment"),
        (("share/link", b"/etc", LINK), "outside of the environment"),
        (("share/link", b"../../..", LINK), "outside of the environment"),
        (("share/hard", b"/etc/passwd", HARD), "hard link"),
        (("share/hard", b"../../passwd", HARD), "hard link"),
        (("share/fifo", b"", tarfile.FIFOTYPE.decode()), "neither a file, a folder nor a link"),
        (("share/device", b"", tarfile.CHRTYPE.decode()), "neither a file, a folder nor a link"),
        ([("share/x", b"1", FILE), ("share/x", b"2", FILE)], "twice"),
        ([("share/x", b"1", FILE), ("share/x/y", b"2", FILE)], "a folder and a file"),
        (("a/" * 300 + "x", b"x", FILE), "more than 256 folders"),
        (("././@LongLink", bytes(2 << 20), tarfile.GNUTYPE_LONGNAME.decode()), "header is too long"),
        # Each link stays inside by itself; one through the other does not.
        (
            [("a/b/up", b"../..", LINK), ("a/b/out", b"up/../..", LINK), ("a/b/out/x", b"x", FILE)],
            "outside of the environment",
        ),
    ],
)
def test_hostile_archives_are_refused_whole(tmp_path: Path, member: Member | list[Member], words: str) -> None:
    assert_refused(hostile(tmp_path, member), tmp_path, words)
    assert not (tmp_path / "outside").exists()
    assert not Path("/tmp/torchlocks-outside").exists()


def test_a_chain_of_links_does_not_lead_out(tmp_path: Path) -> None:
    inside = hostile(
        tmp_path,
        [("a/b/up", b"../..", LINK), ("a/b/out", b"up/..", LINK)],
        listed=["a/b/up", "a/b/out"],
    )
    assert_refused(inside, tmp_path, "out of the environment")


def test_a_file_list_that_lies_is_refused(tmp_path: Path) -> None:
    assert_refused(hostile(tmp_path, ("share/x", b"x", FILE), listed=["share/y"]), tmp_path, "file list")
    other = tmp_path / "other"
    other.mkdir()
    assert_refused(hostile(other, ("share/x", b"x", FILE), listed=["../../x"]), other, "outside of the environment")


def test_a_package_of_another_name_is_refused(tmp_path: Path) -> None:
    inside = hostile(tmp_path, ("share/x", b"x", FILE), index={"name": "harmless"})
    assert_refused(inside, tmp_path, "contains the package")


def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    inside = hostile(tmp_path, ("share/x", os.urandom(300_000), FILE), listed=["share/x"])
    file = inside / "channel" / PLATFORM / "evil-1.0-0.tar.bz2"
    before = file.read_bytes()
    file.write_bytes(before[: len(before) // 2])
    rehash(inside, {hashlib.sha256(h).hexdigest(): hashlib.sha256(file.read_bytes()).hexdigest() for h in (before,)})
    assert_refused(inside, tmp_path, "is not a package that can be extracted")


@pytest.mark.parametrize("entry", ["../../evil = os:abort", "evil = os; import sys:abort", "evil"])
def test_an_entry_point_is_only_a_name(tmp_path: Path, entry: str) -> None:
    channel = make_channel(tmp_path / "channel")
    channel.packages = [each for each in channel.packages if each.name == "python"]
    add_noarch(channel, "bad", {"site-packages/bad.py": ""}, [entry])
    inside = unpacked(make(channel.lock(), tmp_path / "b.tar"), tmp_path / "b")
    assert_refused(inside, tmp_path, "entry point that is not one")


# --- reading Zstandard --------------------------------------------------------------------------


@pytest.mark.parametrize("way", [zstd.zstd_of_system, zstd.zstd_of_command, zstd.zstd_of_module])
def test_each_way_of_reading_zstandard_makes_the_same_files(
    folder: Path, tmp_path: Path, way: Callable[[], zstd.Opener | None]
) -> None:
    opener = way()
    if opener is None:
        pytest.skip(f"{way.__name__}: not on this machine")
    archive = folder / "channel" / PLATFORM / "many-1.0-0.conda"
    made = extract(archive, tmp_path / "extracted", opener)
    assert (made.folder / "share/many/7.txt").read_text() == "7 " * 300
    listed = json.loads((made.folder / "info" / "paths.json").read_text())["paths"]
    assert len(listed) == 200
    assert all(made.hashes[each["_path"]] == each["sha256"] for each in listed)
    # What is a sound zip file of something else is told in the same way by all.
    other = tmp_path / "other-1.0-0.conda"
    with zipfile.ZipFile(other, "w") as parts:
        parts.writestr("info-other-1.0-0.tar.zst", b"not Zstandard")
        parts.writestr("pkg-other-1.0-0.tar.zst", b"not Zstandard")
    with pytest.raises(BundleError, match="is not a package that can be extracted"):
        extract(other, tmp_path / "other", opener)
    # A stream that ends too early or is damaged is an error with every one of them.
    content = archive.read_bytes()
    broken = tmp_path / archive.name
    for number, bad in enumerate((flipped(content, len(content) * 2 // 3), flipped(content, len(content) // 2))):
        broken.write_bytes(bad)
        with pytest.raises((BundleError, OSError)):
            extract(broken, tmp_path / f"broken-{number}", opener)


def test_without_anything_that_reads_zstandard_a_portable_bundle_installs(
    lock: Lock, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zstd, "ZSTD", ())
    place = tmp_path / "place"
    assert install_bundle([str(place / "env")], folder) == 1
    assert "PORTABLE=1" in capsys.readouterr().err
    assert not place.exists()
    inside = unpacked(make(lock, tmp_path / "b.tar", portable=True), tmp_path / "b")
    assert install_bundle([str(place / "env"), "--unproven"], inside) == 0
    assert fsck(place / "env", progress=SILENT).ok


def other_bytes(folder: Path, **manifest: object) -> None:
    """Put another archive in the place of one, and let the bundle's own manifest and sums say so."""
    said = json.loads((folder / "bundle.json").read_text()) | manifest
    entry = next(each for each in said["packages"] if each["name"] == "many")
    file = folder / entry["file"]
    file.write_bytes(file.read_bytes() + b"\0")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(entry["file_sha256"], found))
    entry["file_sha256"] = found
    (folder / "bundle.json").write_text(json.dumps(said))
    kept = [line for line in sums.read_text().splitlines() if not line.endswith("bundle.json")]
    sums.write_text("\n".join(kept) + "\n")


def test_an_archive_that_the_lock_does_not_name_is_refused_also_with_a_manifest(bundle: Bundle, tmp_path: Path) -> None:
    inside = unpacked(bundle, tmp_path / "b")
    other_bytes(inside)
    for arguments in (("--check",), (str(tmp_path / "env"),), (str(tmp_path / "env"), "--unproven")):
        said = run_installer(inside, *arguments)
        assert said.code == 1
        assert "as locked" not in said.said
        assert not (tmp_path / "env").exists()


def test_a_bundle_that_declares_itself_portable_must_be_proven(lock: Lock, bundle: Bundle, tmp_path: Path) -> None:
    inside = unpacked(bundle, tmp_path / "b")
    other_bytes(inside, portable=True)
    assert run_installer(inside, "--check").code == 1
    assert run_installer(inside, tmp_path / "env").code == 1
    assert not (tmp_path / "env").exists()
    said = run_installer(inside, "--check", "--unproven")
    assert "NOT proven" in said.said

    made = make(lock, tmp_path / "p.tar", portable=True)
    honest = unpacked(made, tmp_path / "p")
    assert run_installer(honest, "--check").code == 1
    assert run_installer(honest, "--check", "--manifest-sha256", made.manifest_sha256).code == 0
    assert run_installer(honest, "--check", "--manifest-sha256", "0" * 64).code == 1


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_a_signature_of_the_manifest_is_a_proof(lock: Lock, tmp_path: Path) -> None:
    inside = unpacked(make(lock, tmp_path / "b.tar", portable=True), tmp_path / "b")
    key, signers = tmp_path / "key", tmp_path / "signers"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    signers.write_text("me@example.org " + key.with_suffix(".pub").read_text())
    arguments = ("--check", "--allowed-signers", str(signers), "--signer", "me@example.org")
    assert run_installer(inside, *arguments).code == 1
    sign = ["ssh-keygen", "-Y", "sign", "-n", "torchlocks-lock", "-f", str(key), str(inside / "bundle.json")]
    subprocess.run(sign, check=True, capture_output=True)
    said = run_installer(inside, *arguments)
    assert said.code == 0, said.said
    assert "me@example.org signed" in said.said
    other_bytes(inside)
    assert run_installer(inside, *arguments).code == 1


def test_what_is_extracted_is_what_was_hashed(folder: Path, tmp_path: Path) -> None:
    found = read_bundle(folder)
    package = next(each for each in found.packages if each.name == "many")
    with pytest.raises(BundleError, match="changed while"):
        extract(folder / package.file, tmp_path / "x", None, "0" * 64)


@pytest.mark.parametrize("name", ["bundle.json", "SHA256SUMS", f"channel/{PLATFORM}/many-1.0-0.conda"])
@pytest.mark.parametrize("kind", ["fifo", "device", "deep", "missing"])
def test_a_bundle_with_files_that_are_none_is_refused_at_once(
    bundle: Bundle, tmp_path: Path, name: str, kind: str
) -> None:
    inside = unpacked(bundle, tmp_path / "b")
    (inside / name).unlink()
    if kind == "fifo":
        os.mkfifo(inside / name)
    elif kind == "device":
        (inside / name).symlink_to("/dev/zero")
    elif kind == "deep":
        (inside / name).write_text("[" * 100_000)
    assert run_installer(inside, "--check").code == 1


def test_a_portable_package_is_one_for_any_conda_client(lock: Lock, tmp_path: Path) -> None:
    inside = unpacked(make(lock, tmp_path / "b.tar", portable=True), tmp_path / "b")
    assert not list(inside.rglob("*.conda"))
    assert run_installer(inside, "--unproven", "--explicit", tmp_path / "here.txt").code == 0
    install_with_rattler(read_lock(tmp_path / "here.txt"), tmp_path / "env", tmp_path / "pkgs")
    install_with_rattler(lock, tmp_path / "own", tmp_path / "pkgs-2")
    assert tree(tmp_path / "env") == tree(tmp_path / "own")
    with tarfile.open(inside / "channel" / PLATFORM / "many-1.0-0.tar.bz2", "r|bz2") as archive:
        assert next(iter(archive)).name.startswith("info/")


# --- into the package cache ---------------------------------------------------------------------


def test_a_bundle_fills_the_cache_for_an_installation_offline(
    channel: TinyChannel, bundle: Bundle, tmp_path: Path
) -> None:
    # The channel that the lock names cannot be reached any more.
    lock = channel.lock(base="https://channel.invalid/tiny")
    cache = tmp_path / "pkgs"
    with pytest.raises(FetchError, match="6 of 6 packages are not in the package cache") as error:
        install_with_rattler(lock, tmp_path / "env", cache, offline=True)
    assert error.value.details is not None
    assert all(each.file_name in error.value.details for each in channel.packages)
    found = unpack_bundle(bundle.path, fetch=FetchOptions(cache=cache, offline=True), progress=SILENT)
    assert (found.name, found.platform, found.packages) == ("tiny", PLATFORM, 6)
    install_with_rattler(lock, tmp_path / "env", cache, offline=True)
    assert fsck(tmp_path / "env", progress=SILENT).ok
    assert not list((cache / ".torchlocks").glob("stage-*"))


@pytest.mark.parametrize("how", ["cut", "flipped", "text", "link", "climbing", "twice", "header"])
def test_a_damaged_or_hostile_bundle_does_not_reach_the_cache(bundle: Bundle, tmp_path: Path, how: str) -> None:
    file = tmp_path / "bundle.tar"
    content = bundle.path.read_bytes()
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        file.write_bytes(flipped(content, content.index(b"PK\3\4") + 200))
    elif how == "text":
        file.write_text("no tar at all " * 100)
    else:
        file.write_bytes(content)
        with tarfile.open(file, "a:") as archive:
            member = tarfile.TarInfo("tiny-linux-64/../../outside" if how == "climbing" else "tiny-linux-64/README.txt")
            if how == "header":
                # tarfile reads it in one piece.
                member.name, member.type, member.size = "././@LongLink", tarfile.GNUTYPE_LONGNAME, 2 << 20
            if how == "link":
                member.name, member.type, member.linkname = "tiny-linux-64/link", tarfile.SYMTYPE, "/etc"
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(IntegrityError, match="header is too long" if how == "header" else None):
        unpack_bundle(file, fetch=FetchOptions(cache=tmp_path / "pkgs"), progress=SILENT)
    assert [each.name for each in (tmp_path / "pkgs").iterdir()] == [".torchlocks"]
    assert not (tmp_path / "outside").exists()


def test_a_portable_bundle_or_none_does_not_fill_the_cache(lock: Lock, tmp_path: Path) -> None:
    made = make(lock, tmp_path / "b.tar", portable=True)
    with pytest.raises(InstallError, match="portable"):
        unpack_bundle(made.path, fetch=FetchOptions(cache=tmp_path / "pkgs"), progress=SILENT)
    with pytest.raises(MissingFileError):
        unpack_bundle(tmp_path / "none.tar", fetch=FetchOptions(), progress=SILENT)


# --- the real thing -----------------------------------------------------------------------------


def test_the_cpu_environment_is_built_from_a_bundle_without_a_network(
    copy_checkout: Callable[[], Checkout], tmp_path: Path
) -> None:
    require_namespaces()
    checkout = copy_checkout()
    made = checkout.run("env", "cpu", "--channel", "local")
    assert made.returncode == 0, made.stderr
    bundle = bundle_environment(
        replace(LAYOUT, root=checkout.root), "cpu", PLATFORM, local=True, fetch=FetchOptions(), progress=SILENT
    )
    assert bundle.path == checkout.root / "build" / "bundles" / f"cpu-{PLATFORM}.tar"

    # With nothing but a bare Python. The two prefixes are equally long, so that libraries are padded alike.
    inside = unpacked(bundle, tmp_path / "elsewhere")
    ours = checkout.prefix.with_name("our")
    said = run_installer(inside, ours, network=False)
    assert said.code == 0, said.said
    expected, found = tree(checkout.prefix), tree(ours)
    assert {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)} == set()
    found_by_fsck = fsck(ours, progress=SILENT)
    assert found_by_fsck.ok, found_by_fsck
    assert found_by_fsck.extra == ()
    borrow_bytecode(LAYOUT.prefix("cpu"), ours)
    program = "import torch; print(torch.__version__, (torch.ones(3) @ torch.ones(3)).item())"
    ran = subprocess.run([str(ours / "bin" / "python"), "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split()[1] == "3.0"

    # With torchlocks, offline and out of an empty package cache.
    cache = tmp_path / "pkgs"
    offline = ("env", "cpu", "--channel", "local", "--offline", "--force")
    refused = checkout.run(*offline, TORCHLOCKS_CACHE=str(cache))
    assert refused.returncode == FetchError.exit_code
    assert "pytorch-" in refused.stderr
    unpack_bundle(bundle.path, fetch=FetchOptions(cache=cache), progress=SILENT)
    # Behind `unshare`, nothing can be reached but a loopback interface, which machines without a network have, too:
    # gloo's processes need one.
    alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
    again = subprocess.run(
        [*alone, str(TORCHLOCKS), *offline],
        cwd=checkout.root,
        env={**os.environ, "TORCHLOCKS_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert tree(checkout.prefix) == expected

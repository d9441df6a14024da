"""Damaged and hostile inputs of every format: read, or refused with an error of ours, and soon.

Each format begins with a real file, which is then cut, repeated and filled with what parsers trip over. The long form
(TORCHLOCKS_SLOW=1) has more than 20,000 inputs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiny_records import record, write_channel
from torchlocks.bundle.installer.files import shown
from torchlocks.bundle.installer.model import BundleError
from torchlocks.bundle.installer.reading import check_files, read_bundle
from torchlocks.check.lock import check_lock
from torchlocks.core.errors import TorchlocksError
from torchlocks.core.progress import Silent
from torchlocks.export.signatures import NAMESPACE, matches
from torchlocks.extend.environment_file import read_environment_file
from torchlocks.host.nvidia import Gpu
from torchlocks.host.record import Host, read_host
from torchlocks.install.contained import refuse_outside
from torchlocks.install.fsck import fsck
from torchlocks.install.inventory import read_inventory
from torchlocks.install.package_files import refuse_other, refuse_unsafe, walk
from torchlocks.install.provenance import read_provenance
from torchlocks.lockfile.formats import parse_environments
from torchlocks.lockfile.models import LockedPackage
from torchlocks.matrix.load import load_matrix
from torchlocks.solve.repodata import RecordSource

ROOT = Path(__file__).parents[3]
LOCKS = ROOT / "tests" / "data" / "locks" / "cpu"
SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))
# Reading one of these takes 50 ms and more.
FEWER = ("conda-lock", "environment", "matrix", "signature")

NASTY = [
    b'', b'\x00', b'\xff\xfe', b'\x1b[2J', b'\xe2\x80\xae', b'\n', b'\r\n', b'\t', b' ' * 300, b"'", b'"',
    b'\\', b'#', b'[' * 200, b'{' * 200, b'{a: ' * 100, b'- - ' * 100, b'&a [*a]', b'&b [*a,*a]', b'*a',
    b'<<: *a', b'!!python/object:os.x', b'null', b'~', b'true', b'-1', b'0', b'1e999', b'9' * 400, b'NaN',
    b'[]', b'{}', b"''", b': ', b'? ', b'---\n', b'...\n', b'../../../etc/passwd', b'/dev/zero', b'C:\\x',
    b'file:///dev/zero', b'https://user:secret@h/t/token/x', b'://', b'ext::sh', b'(' * 300, b'>=1,<2|', b'*',
    b'==', b'@EXPLICIT\n', b'<<<<<<< x\n', b'%s%n', b'${HOME}', b'{{ x }}', b'\xed\xa0\x80',
]  # fmt: skip


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[float, float, bytes]]:
    """Some edits: from where to where, as parts of the file, and what comes there."""
    place = st.floats(0, 1)
    content = st.sampled_from(NASTY) | st.binary(max_size=8)
    length = st.sampled_from([0.0, 0.0, 0.001, 0.01, 0.3])
    return draw(st.lists(st.tuples(place, length, content), min_size=1, max_size=4))


def edited(seed: bytes, changes: list[tuple[float, float, bytes]]) -> bytes:
    for place, length, content in changes:
        start = int(place * len(seed))
        seed = seed[:start] + content + seed[start + int(length * len(seed)) :]
    return seed


def small_conda_lock() -> bytes:
    """The beginning of a real lock, cut after some packages: parsing all of it each time would take the time."""
    text = (LOCKS / "conda-lock.yml").read_text(encoding="utf-8")
    return "\n- name: ".join(text.split("\n- name: ")[:8]).encode()


EXPLICIT = b"# platform: linux-64\n@EXPLICIT\n" + b"".join(
    b"https://conda.anaconda.org/conda-forge/%s/x%d-1.0-py311_0.conda#sha256:%s\n" % (subdir, number, b"0a" * 32)
    for number, subdir in enumerate((b"linux-64", b"noarch", b"linux-64"))
)
PIXI = b"""version: 6
environments:
  default:
    channels:
    - url: https://conda.anaconda.org/conda-forge/
    packages:
      linux-64:
      - conda: https://conda.anaconda.org/conda-forge/linux-64/x-1.0-0.conda
packages:
- conda: https://conda.anaconda.org/conda-forge/linux-64/x-1.0-0.conda
  sha256: 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a
  depends:
  - python >=3.8
  license: MIT
  size: 100
"""
ENVIRONMENT = b"""name: x
channels: [conda-forge]
platforms: [linux-64]
dependencies:
  - numpy >=1.2,<3
  - einops # [linux]
"""
PATHS = (
    b'{"paths": [{"_path": "a/b", "path_type": "hardlink", "sha256": "00", "size_in_bytes": 1}], "paths_version": 1}'
)
INDEX = b'{"name": "python", "version": "3.11.7", "build": "0", "subdir": "linux-64", "depends": ["x >=1"]}'
SIGNATURE = b"""-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg
-----END SSH SIGNATURE-----
"""
PACKAGE = LockedPackage(
    name="python",
    version="3.11.7",
    build="0",
    subdir="linux-64",
    url="https://h.example/linux-64/python-3.11.7-0.conda",
)

Reader = Callable[[bytes, Path], object]


def read_locks(data: bytes, folder: Path) -> None:
    for lock in parse_environments(data, folder / "lock"):
        check_lock(lock)


def by_path(read: Callable[[Path], object]) -> Reader:
    def call(data: bytes, folder: Path) -> None:
        path = folder / "file"
        path.write_bytes(data)
        read(path)

    return call


MANIFEST = {
    "schema": 1,
    "name": "x",
    "platform": "linux-64",
    "torchlocks": "1",
    "portable": False,
    "lock": {"name": "l", "kind": "pixi", "sha256": "0" * 64},
    "packages": [
        {
            "name": "x",
            "version": "1",
            "build": "0",
            "subdir": "linux-64",
            "url": "https://h/c/linux-64/x-1-0.conda",
            "sha256": hashlib.sha256(b"archive").hexdigest(),
            "md5": None,
            "size": 7,
            "file": "channel/linux-64/x-1-0.conda",
            "file_sha256": hashlib.sha256(b"archive").hexdigest(),
        }
    ],
}
SUMS = f"{hashlib.sha256(b'archive').hexdigest()}  channel/linux-64/x-1-0.conda\n".encode()


def read_a_bundle(manifest: bytes, sums: bytes, folder: Path) -> None:
    digest = hashlib.sha256(b"archive").hexdigest().encode()
    (folder / "bundle.json").write_bytes(manifest)
    (folder / "conda-linux-64.lock").write_bytes(b"@EXPLICIT\nhttps://h/c/linux-64/x-1-0.conda#" + digest + b"\n")
    (folder / "SHA256SUMS").write_bytes(sums)
    (folder / "channel" / "linux-64").mkdir(parents=True, exist_ok=True)
    (folder / "channel" / "linux-64" / "x-1-0.conda").write_bytes(b"archive")
    check_files(read_bundle(folder), lambda text: None)


RECORD = b"""{"name": "x", "version": "1", "build": "0", "subdir": "noarch", "url": "https://h/c/noarch/x-1-0.conda",
"files": ["share/x"], "paths_data": {"paths_version": 1, "paths": [{"_path": "share/x", "path_type": "hardlink",
"sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "size_in_bytes": 3}]}}"""


def read_environment_record(data: bytes, folder: Path) -> None:
    """An installed package's record and a wheel's list of files, both as `data`."""
    wheel = folder / "lib" / "python3.11" / "site-packages" / "w-1.dist-info"
    for each in (folder / "conda-meta", folder / "share", wheel):
        each.mkdir(parents=True, exist_ok=True)
    (folder / "share" / "x").write_bytes(b"abc")
    (folder / "conda-meta" / "x-1-0.json").write_bytes(data)
    (folder / "conda-meta" / "torchlocks").write_bytes(data)
    (folder / "conda-meta" / "torchlocks-files").write_bytes(data)
    (wheel / "RECORD").write_bytes(data)
    fsck(folder, progress=Silent())
    read_inventory(folder)
    read_provenance(folder)


def read_package(paths: bytes, index: bytes, folder: Path) -> None:
    (folder / "info").mkdir(exist_ok=True)
    (folder / "info" / "paths.json").write_bytes(paths)
    (folder / "info" / "index.json").write_bytes(index)
    refuse_unsafe(folder, walk(folder), "x")
    refuse_other(folder, PACKAGE)
    listed = [each["_path"] for each in json.loads(paths)["paths"]]
    refuse_outside({"x": (folder, "python", "3.11.7")}, {"x": listed}, "linux-64")


def read_signature(data: bytes, folder: Path) -> None:
    if shutil.which("ssh-keygen"):
        matches(b"lock", data)


def read_repodata(data: bytes, folder: Path) -> None:
    place = folder / "snapshot" / "conda-forge" / "linux-64"
    place.mkdir(parents=True, exist_ok=True)
    (place / "repodata.json").write_bytes(data)
    for sparse in RecordSource(snapshot=folder / "snapshot").sparse("conda-forge", ["linux-64"]):
        for name in sparse.package_names():
            sparse.load_records(name)


def signature(folder: Path) -> bytes:
    if not shutil.which("ssh-keygen"):
        return SIGNATURE
    key, lock = folder / "key", folder / "lock"
    lock.write_bytes(b"lock")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(lock)]
    subprocess.run(command, check=True, capture_output=True)
    return Path(f"{lock}.sig").read_bytes()


def matrix(_: Path) -> bytes:
    """The real matrix with two of its environments: parsing all of it each time would take the time."""
    document = yaml.safe_load((ROOT / "matrix.yml").read_text(encoding="utf-8"))
    document["environments"] = {name: document["environments"][name] for name in ("cpu", "gpu-cu129")}
    document["local"] = {}
    return yaml.safe_dump(document, sort_keys=False).encode()


def repodata(folder: Path) -> bytes:
    write_channel(folder, record("python", "3.11.5", "h1_0"), record("numpy", "1.26.0", depends=("python 3.11.*",)))
    return next(folder.rglob("linux-64/repodata.json")).read_bytes()


def host() -> bytes:
    gpu = Gpu(index=0, name="NVIDIA H100")
    host = Host(platform="linux-64", glibc="2.35", driver="580.1", cuda="13.0", gpus=(gpu,))
    return json.dumps(asdict(host)).encode()


FORMATS: dict[str, tuple[Callable[[Path], bytes], Reader]] = {
    "conda-lock": (lambda _: small_conda_lock(), read_locks),
    "explicit": (lambda _: EXPLICIT, read_locks),
    "pixi": (lambda _: PIXI, read_locks),
    "matrix": (matrix, by_path(load_matrix)),
    "environment": (lambda _: ENVIRONMENT, by_path(read_environment_file)),
    "host": (lambda _: host(), by_path(read_host)),
    "bundle": (lambda _: json.dumps(MANIFEST).encode(), lambda data, folder: read_a_bundle(data, SUMS, folder)),
    "SHA256SUMS": (lambda _: SUMS, lambda data, folder: read_a_bundle(json.dumps(MANIFEST).encode(), data, folder)),
    "record": (lambda _: RECORD, read_environment_record),
    "paths.json": (lambda _: PATHS, lambda data, folder: read_package(data, INDEX, folder)),
    "index.json": (lambda _: INDEX, lambda data, folder: read_package(PATHS, data, folder)),
    "signature": (signature, read_signature),
    "repodata": (repodata, read_repodata),
}
# Of these, py-rattler and the standalone installer have errors of their own.
OTHER_ERRORS: dict[str, tuple[type[Exception], ...]] = {
    "bundle": (BundleError,),
    "SHA256SUMS": (BundleError,),
    "repodata": (Exception,),
}


@pytest.mark.parametrize("name", FORMATS)
def test_any_input_is_read_or_refused_and_soon(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    make, read = FORMATS[name]
    seed = make(tmp_path_factory.mktemp("seed"))
    folder = tmp_path_factory.mktemp("fuzz")
    read_or_refuse(name, read, seed, folder)

    @settings(
        max_examples=(1_000 if name in FEWER else 2_500) if SLOW else 20,
        deadline=timedelta(seconds=20),
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(changes=edits())
    def run(changes: list[tuple[float, float, bytes]]) -> None:
        read_or_refuse(name, read, edited(seed, changes), folder)

    run()


def read_or_refuse(name: str, read: Reader, data: bytes, folder: Path) -> None:
    said = ""
    try:
        read(data, folder)
    except TorchlocksError as error:
        said = str(error)
    except OTHER_ERRORS.get(name, ()):
        return
    assert said.replace("\n", "").replace("\t", "").isprintable()
    assert "user:secret" not in said


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("environment", b"dependencies:\n  ? - a\n  : b\n"),
        ("environment", b"? [a, b]\n: c\ndependencies: []\n"),
        ("matrix", b"? [a, {b: c}]\n: d\n"),
        ("SHA256SUMS", b"0" * 64 + b"  a\0b\n"),
        ("host", '{"platform": "\u00ad\ufeff\ue000", "x": 1}'.encode()),
    ],
)
def test_what_the_long_form_found(name: str, data: bytes, tmp_path: Path) -> None:
    with pytest.raises((TorchlocksError, BundleError)) as caught:
        FORMATS[name][1](data, tmp_path)
    # The installer's own errors are escaped when they are printed.
    assert shown(str(caught.value).replace("\n", "")).isprintable()


def test_a_file_list_with_a_name_too_long_for_a_file_is_no_traceback(tmp_path: Path) -> None:
    read_package(PATHS.replace(b"a/b", b"a/" + b"b" * 300), INDEX, tmp_path)


def test_the_seeds_themselves_are_read(tmp_path: Path) -> None:
    for name, (make, read) in FORMATS.items():
        folder = tmp_path / name
        folder.mkdir()
        read(make(folder), folder)

"""The parts of images that need no packages: compression, layers, configuration, and bases of strangers."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from torchlocks.core.errors import ImageError, InstallError, IntegrityError, LockfileError, MissingFileError
from torchlocks.core.files import EARLIEST_TIME_S
from torchlocks.core.progress import Silent
from torchlocks.export.environment import LockedTarget
from torchlocks.image import compression as packing
from torchlocks.image import scan as scanning
from torchlocks.image.base import BaseImage, take_base
from torchlocks.image.blobs import Layout
from torchlocks.image.compression import Compression, compressed, decompressed
from torchlocks.image.config import config_document, valid_prefix, write_entry_point
from torchlocks.image.layers import group_of, plan_layers, settle_records, write_layer
from torchlocks.image.scan import Contents
from torchlocks.image.write import ImageOptions, make_image
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.lockfile.models import Lock, LockedPackage, pip_package

PREFIX = "opt/env"
SILENT = Silent()
KINDS: tuple[Compression, ...] = ("none", "gzip", "zstd")


def packed(kind: Compression, *blocks: bytes) -> bytes:
    out = io.BytesIO()
    with compressed(kind, out.write) as sink:
        for block in blocks:
            sink.write(block)
    return out.getvalue()


def package(name: str, build: str = "0", **more: Any) -> LockedPackage:
    url = f"https://conda.anaconda.org/conda-forge/linux-64/{name}-1.0-{build}.conda"
    return LockedPackage(name=name, version="1.0", build=build, subdir="linux-64", url=url, sha256="a" * 64, **more)


def locked(*packages: LockedPackage, platform: str = "linux-64", **more: Any) -> LockedTarget:
    lock = Lock(
        path=Path("conda-lock.yml"),
        kind="conda-lock",
        sha256="b" * 64,
        channels=(),
        packages={platform: packages},
        content_hash={},
        virtual_packages=more.pop("virtual_packages", {}),
        metadata={},
        **more,
    )
    return LockedTarget(
        name="tiny", platform=platform, lock=lock, packages=packages, target=None, platforms=(platform,)
    )


# --- compression ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(blocks=st.lists(st.binary(max_size=3000), max_size=5))
@settings(max_examples=20)
def test_what_is_compressed_is_read_again_by_the_usual_libraries(kind: Compression, blocks: list[bytes]) -> None:
    data = packed(kind, *blocks)
    whole = b"".join(blocks)
    assert b"".join(decompressed(io.BytesIO(data), kind)) == whole
    if kind == "gzip":
        assert gzip.decompress(data) == whole
    if kind == "zstd":
        assert zstandard.ZstdDecompressor().decompressobj().decompress(data) == whole


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_the_number_of_processors_changes_nothing(kind: Compression, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_BLOCK", 1 << 12)
    block = b"".join(f"{n * 7919 % 997} ".encode() for n in range(20_000))
    results = set()
    for processors in (1, 2, 16):
        monkeypatch.setattr(os, "cpu_count", lambda count=processors: count)
        results.add(packed(kind, block, block[:5000]))
    (data,) = results
    assert b"".join(decompressed(io.BytesIO(data), kind)) == block + block[:5000]
    # Blocks that are compressed apart are one member: some readers stop after the first.
    assert kind == "zstd" or gzip.decompress(data) == block + block[:5000]


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_damaged_and_incomplete_data_is_an_error(kind: Compression) -> None:
    data = packed(kind, b"x" * 1000 + os.urandom(1000))
    for broken in (data[:-5], data[: len(data) // 2], data[:40] + b"\0\0\0" + data[43:], data[:3]):
        with pytest.raises(ValueError):  # noqa: PT011 - libraries say it in many ways
            assert b"".join(decompressed(io.BytesIO(broken), kind)) != b"x"


def test_several_members_and_padding_are_read() -> None:
    data = gzip.compress(b"one") + gzip.compress(b"two") + bytes(512)
    assert b"".join(decompressed(io.BytesIO(data), "gzip")) == b"onetwo"


# --- layers -----------------------------------------------------------------------------------------------------------


def test_packages_are_in_layers_by_how_often_they_change() -> None:
    groups = {
        "cuda": [package("libcublas"), package("cudnn"), package("nccl"), package("magma", "cuda126_0")],
        "torch": [package("pytorch", "cuda126_py312_0"), package("libtorch", "cuda126_0"), package("triton")],
        "rest": [package("python"), package("numpy"), package("mkl")],
    }
    assert {each.name: group_of(each) for group in groups.values() for each in group} == {
        each.name: group for group, packages in groups.items() for each in packages
    }


def environment(root: Path, packages: dict[str, dict[str, bytes]]) -> Path:
    """A folder like an installed environment; `packages` maps a package's name to its files."""
    (root / "conda-meta").mkdir(parents=True)
    for name, files in packages.items():
        record = {
            "name": name,
            "files": list(files),
            "extracted_package_dir": f"{root}/pkgs/{name}",
            "link": {"source": f"{root}/pkgs/{name}", "type": 1},
        }
        (root / "conda-meta" / f"{name}-1.0-0.json").write_text(json.dumps(record))
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
            (root / path).chmod(0o775 if path.startswith("bin/") else 0o600)
    (root / "conda-meta" / "history").write_text("made\n")
    return root


def tar_of(staged: Path, packages: list[LockedPackage], group: str, above: tuple[str, ...] = ()) -> bytes:
    (layer,) = [each for each in plan_layers(staged, packages) if each.group == group]
    out = io.BytesIO()
    with compressed("none", out.write) as sink, SILENT.task("") as task:
        write_layer(layer, staged, PREFIX, above, sink, task)
    return out.getvalue()


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def test_a_layer_holds_its_own_packages_with_fixed_owners_times_and_modes(tmp_path: Path) -> None:
    packages = [package("pytorch"), package("numpy")]
    staged = environment(
        tmp_path / "e", {"pytorch": {"lib/torch.so": b"t"}, "numpy": {"bin/f2py": b"n", "share/ü": b""}}
    )
    (staged / "bin" / "f").symlink_to("f2py")
    settle_records(staged)
    torch, rest = members(tar_of(staged, packages, "torch", ("opt",))), members(tar_of(staged, packages, "rest"))
    assert set(torch) == {
        *("opt", "opt/env", "opt/env/conda-meta", "opt/env/lib"),
        *("opt/env/conda-meta/pytorch-1.0-0.json", "opt/env/lib/torch.so"),
    }
    assert "opt" not in rest
    assert {"opt/env/bin/f2py", "opt/env/share/ü", "opt/env/conda-meta/history"} <= set(rest)
    assert rest["opt/env/bin/f"].linkname == "f2py"
    assert (rest["opt/env/bin/f2py"].mode, torch["opt/env/lib/torch.so"].mode) == (0o755, 0o644)
    assert {(each.uid, each.gid, each.uname, each.mtime) for each in rest.values()} == {(0, 0, "", EARLIEST_TIME_S)}
    # A folder comes before what is in it.
    assert list(torch) == sorted(torch, key=lambda name: name.split("/"))


def test_records_say_nothing_of_this_machine(tmp_path: Path) -> None:
    packages = [package("pytorch"), package("numpy")]
    made = []
    for name, mode in (("here", 0o700), ("there", 0o755)):
        staged = environment(tmp_path / name, {"pytorch": {"lib/torch.so": b"t"}, "numpy": {"lib/n.so": b"n"}})
        os.utime(staged / "lib" / "n.so", (5, 5))
        (staged / "lib").chmod(mode)
        settle_records(staged)
        made.append([tar_of(staged, packages, group) for group in ("torch", "rest")])
    assert made[0] == made[1]
    assert os.fsencode(tmp_path) not in b"".join(made[0])


def test_a_layer_stays_when_packages_of_another_change(tmp_path: Path) -> None:
    before = environment(tmp_path / "a", {"pytorch": {"lib/torch.so": b"t"}, "numpy": {"lib/n.so": b"n"}})
    after = environment(tmp_path / "b", {"pytorch": {"lib/torch.so": b"t"}, "numpy": {"lib/n.so": b"newer"}})
    for staged in (before, after):
        settle_records(staged)
    packages = [package("pytorch"), package("numpy")]
    assert tar_of(before, packages, "torch") == tar_of(after, packages, "torch")
    assert tar_of(before, packages, "rest") != tar_of(after, packages, "rest")


def test_modules_keep_the_time_that_their_bytecode_names(tmp_path: Path) -> None:
    source, seconds = b"x = 1\n", 1_600_000_000
    start = b"\xa7\r\r\n" + bytes(4) + seconds.to_bytes(4, "little")
    files = {
        "lib/a.py": source,
        "lib/__pycache__/a.cpython-311.pyc": start + len(source).to_bytes(4, "little") + b"code",
        "lib/b.py": source,
        "lib/__pycache__/b.cpython-311.pyc": start + (99).to_bytes(4, "little"),
        "lib/c.py": source,
        "lib/__pycache__/c.cpython-311.pyc": b"\xa7\r\r\n" + (1).to_bytes(4, "little") + bytes(8),
        "lib/__pycache__/alone.cpython-311.pyc": b"",
    }
    staged = environment(tmp_path / "e", {"numpy": files})
    found = members(tar_of(staged, [package("numpy")], "rest"))
    assert [found[f"opt/env/lib/{name}.py"].mtime for name in "abc"] == [seconds, EARLIEST_TIME_S, EARLIEST_TIME_S]


def test_a_file_that_would_remove_others_is_refused(tmp_path: Path) -> None:
    for name in ("lib/.wh.torch", ".wh..wh..opq", "lib/.wh.x/y"):
        staged = environment(tmp_path / name.replace("/", "_"), {"numpy": {name: b""}})
        with pytest.raises(IntegrityError, match="remove"):
            plan_layers(staged, [package("numpy")])


def test_a_file_of_several_packages_is_there_once(tmp_path: Path) -> None:
    staged = environment(tmp_path / "e", {"pytorch": {"lib/both": b"t"}, "numpy": {"lib/both": b"n"}})
    packages = [package("pytorch"), package("numpy")]
    assert "opt/env/lib/both" in members(tar_of(staged, packages, "rest"))
    assert "opt/env/lib/both" not in members(tar_of(staged, packages, "torch"))


# --- configuration ----------------------------------------------------------------------------------------------------


def no_base(**found: bytes) -> BaseImage:
    return BaseImage(contents=Contents(PREFIX, dict(found)))


def test_the_environment_is_active_and_the_base_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "etc/conda/env_vars.d").mkdir(parents=True)
    (tmp_path / "etc/conda/env_vars.d/a.json").write_text('{"MKL_THREADING_LAYER": "GNU"}')
    given = {"Env": ["PATH=/base/bin:/bin", "LANG=C"], "Entrypoint": ["/init"], "User": "me", "Labels": {"a": "b"}}
    base = replace(no_base(), settings=scanning_settings(given), diff_ids=["sha256:" + "1" * 64], history=[{}])
    start = write_entry_point(tmp_path, PREFIX, base)
    document = config_document(locked(package("python")), base, start, PREFIX, [("sha256:" + "2" * 64, "rest")])
    variables = dict(entry.split("=", 1) for entry in document["config"]["Env"])
    assert variables["PATH"] == "/opt/env/bin:/base/bin:/bin"
    assert (variables["CONDA_PREFIX"], variables["LANG"]) == ("/opt/env", "C")
    assert variables["MKL_THREADING_LAYER"] == "GNU"
    assert "NVIDIA_REQUIRE_CUDA" not in variables
    assert document["config"]["Entrypoint"] == ["/init"]
    assert document["config"]["User"] == "me"
    assert document["config"]["Labels"] == {
        "a": "b",
        "torchlocks.environment": "tiny",
        "torchlocks.platform": "linux-64",
        "torchlocks.lock.sha256": "b" * 64,
    }
    assert document["rootfs"]["diff_ids"] == ["sha256:" + "1" * 64, "sha256:" + "2" * 64]
    assert len(document["history"]) == 2


def scanning_settings(document: dict[str, Any]) -> Any:
    from torchlocks.image.documents import Settings

    return Settings.model_validate(document)


def test_an_image_for_cuda_names_the_driver_it_needs(tmp_path: Path) -> None:
    lock = locked(package("python"), virtual_packages={"linux-64": ("__cuda=12.6",)})
    start = write_entry_point(tmp_path, PREFIX, no_base())
    document = config_document(lock, no_base(), start, PREFIX, [])
    assert "NVIDIA_REQUIRE_CUDA=cuda>=12.6" in document["config"]["Env"]
    assert document["config"]["Cmd"] == ["python"]


def test_activation_scripts_are_run_by_an_entry_point(tmp_path: Path) -> None:
    import subprocess

    scripts = tmp_path / "etc/conda/activate.d"
    scripts.mkdir(parents=True)
    (scripts / "a.sh").write_text('export TINY="$CONDA_PREFIX/share"\n')
    assert write_entry_point(tmp_path, PREFIX, no_base()).entry_point == ()
    base = BaseImage(contents=Contents(PREFIX, {"bin/sh": b"0", "usr/bin/bash": b"0"}))
    start = write_entry_point(tmp_path, PREFIX, base)
    assert start.entry_point == ("/usr/bin/bash", "/opt/env/etc/torchlocks/entrypoint.sh")
    run = subprocess.run(
        ["/bin/sh", str(tmp_path / "etc/torchlocks/entrypoint.sh"), "sh", "-c", 'echo "$TINY $1"', "-", "a b"],
        env={"CONDA_PREFIX": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == f"{tmp_path}/share a b\n"


@pytest.mark.parametrize("text", ["[]", '{"A B": "x"}', '{"A": 1}', '{"A": "\\u0000"}', "{"])
def test_damaged_variables_of_a_package_are_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "etc/conda/env_vars.d").mkdir(parents=True)
    (tmp_path / "etc/conda/env_vars.d/a.json").write_text(text)
    with pytest.raises(InstallError):
        write_entry_point(tmp_path, PREFIX, no_base())


@pytest.mark.parametrize(
    "prefix", ["", "/", "opt/env", "/opt/../etc", "/opt//env", "/a b", "/a:b", "/opt/env/", "/" + "x" * 200]
)
def test_paths_that_cannot_be_a_prefix_are_refused(prefix: str) -> None:
    with pytest.raises(ImageError):
        valid_prefix(prefix)
    assert valid_prefix("/opt/env-1.0") == "opt/env-1.0"


# --- bases ------------------------------------------------------------------------------------------------------------


def member(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, len(content), target
    return made, content


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


ROOTFS = tar(
    member("./opt", tarfile.DIRTYPE),
    member("./usr/bin/bash", content=b"shell"),
    member("./usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", content=b"loader"),
    member("./lib", tarfile.SYMTYPE, target="/usr/lib"),
    member("./dev/null", tarfile.CHRTYPE),
)


def taken(path: Path | None, tmp_path: Path, name: str | None = None, prefix: str = PREFIX) -> tuple[BaseImage, Layout]:
    layout = Layout(tmp_path / f"layout-{len(list(tmp_path.iterdir()))}")
    return take_base(path, name, "linux-64", prefix, layout, "gzip", SILENT), layout


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_the_tar_of_a_file_system_is_one_layer(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "base.tar").write_bytes(pack(ROOTFS))
    base, layout = taken(tmp_path / "base.tar", tmp_path)
    assert base.diff_ids == [f"sha256:{hashlib.sha256(ROOTFS).hexdigest()}"]
    (layer,) = base.layers
    assert gzip.decompress(layout.path(layer["digest"]).read_bytes()) == ROOTFS
    assert base.contents.shell == "/usr/bin/bash"
    assert base.contents.glibc
    assert base.contents.has_folder("opt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tar(member("../etc/passwd")), "outside"),
        (tar(member("/etc/passwd")), "outside"),
        (tar(member("a", tarfile.LNKTYPE, target="../../x")), "outside"),
        (tar(member("etc/.wh.passwd")), "remove"),
        (tar(member("opt/env/bin/python", content=b"x")), "where the environment"),
        (tar(member("opt", tarfile.SYMTYPE, target="/etc")), "no folder"),
        (tar(member("opt/env", tarfile.SYMTYPE, target="/etc")), "where the environment"),
        (tar(member("oci-layout"), member("x", content=b"y" * 600))[:700], "index.json"),
        (gzip.compress(tar(member("oci-layout"))), "archive of images"),
        (tar(member("manifest.json", content=b"[]"), member("repositories")), "archive of images"),
        (b"\x1f\x8b" + b"x" * 100, "damaged"),
        (b"BZh9" + b"x" * 100, "unsupported compression"),
        (b"no tar at all" * 100, "no"),
        (b"", "empty"),
        (gzip.compress(b""), "empty"),
        # An extended header of a gigabyte, which tarfile would read whole.
        (tarfile.TarInfo.create_pax_global_header({"a": "b"})[:124] + b"10000000000\0" + bytes(900), "no"),
    ],
    # Compressed bytes have the time in them, and names of tests must be the same in every process.
    ids=itertools.count(),
)
def test_what_is_no_file_system_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "base.tar").write_bytes(content)
    with pytest.raises(ImageError, match=said):
        taken(tmp_path / "base.tar", tmp_path)


def test_a_base_is_limited_in_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "MOST_BYTES", 5 << 20)
    (tmp_path / "base.tar").write_bytes(gzip.compress(tar(member("zeros", content=bytes(10 << 20)))))
    with pytest.raises(ImageError, match="GiB"):
        taken(tmp_path / "base.tar", tmp_path)
    monkeypatch.setattr(scanning, "MOST_MEMBERS", 3)
    (tmp_path / "base.tar").write_bytes(ROOTFS)
    with pytest.raises(ImageError, match="files"):
        taken(tmp_path / "base.tar", tmp_path)


def test_a_base_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        taken(tmp_path / "nothing", tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError, match="FIFO"):
        taken(tmp_path / "fifo", tmp_path)
    with pytest.raises(ImageError, match="OCI image layout") as caught:
        taken(tmp_path, tmp_path)
    assert "tar -C" in (caught.value.fix or "")


class Stranger:
    """An OCI layout of somebody else, with one image of two layers; members of its documents can be replaced."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layers = [ROOTFS, tar(member("usr/bin/.wh.bash"), member("usr/bin/sh", content=b"sh"))]
        self.config: dict[str, Any] = {"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"]}}
        self.config["rootfs"] = {"type": "layers", "diff_ids": [self.digest(layer) for layer in self.layers]}
        self.manifest: dict[str, Any] = {"schemaVersion": 2}
        self.index: dict[str, Any] = {"schemaVersion": 2}
        self.image: dict[str, Any] = {"annotations": {"org.opencontainers.image.ref.name": "debian"}}
        self.media = "application/vnd.oci.image.layer.v1.tar+gzip"
        (root / "blobs" / "sha256").mkdir(parents=True)

    @staticmethod
    def digest(data: bytes) -> str:
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    def blob(self, media: str, data: bytes) -> dict[str, Any]:
        digest = self.digest(data)
        (self.root / "blobs/sha256" / digest[7:]).write_bytes(data)
        return {"mediaType": media, "digest": digest, "size": len(data)}

    def listed(self) -> dict[str, Any]:
        config = self.blob("application/vnd.oci.image.config.v1+json", json.dumps(self.config).encode())
        layers = [self.blob(self.media, gzip.compress(layer, mtime=0)) for layer in self.layers]
        manifest = {"config": config, "layers": layers, **self.manifest}
        return {**self.blob("application/vnd.oci.image.manifest.v1+json", json.dumps(manifest).encode()), **self.image}

    def write(self, *more: dict[str, Any]) -> Path:
        index = {"manifests": [self.listed(), *more], **self.index}
        (self.root / "index.json").write_text(json.dumps(index))
        (self.root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        return self.root


@pytest.fixture
def stranger(tmp_path: Path) -> Stranger:
    return Stranger(tmp_path / "stranger")


@pytest.mark.parametrize("docker", [False, True])
def test_an_oci_layout_is_taken_over_verified(tmp_path: Path, stranger: Stranger, docker: bool) -> None:
    if docker:
        stranger.media = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    base, layout = taken(stranger.write(), tmp_path)
    assert base.diff_ids == stranger.config["rootfs"]["diff_ids"]
    assert [each["mediaType"] for each in base.layers] == ["application/vnd.oci.image.layer.v1.tar+gzip"] * 2
    assert all(layout.path(each["digest"]).is_file() for each in base.layers)
    # The second layer removes the first one's bash.
    assert base.contents.shell == "/usr/bin/sh"
    assert (base.name, base.settings.Env) == ("debian", ["A=b"])
    assert len(base.history) == 2


def test_an_oci_layout_may_be_a_tar(tmp_path: Path, stranger: Stranger) -> None:
    folder = stranger.write()
    with tarfile.open(tmp_path / "base.tar", "w") as archive:
        archive.add(folder, arcname=".")
    assert taken(tmp_path / "base.tar", tmp_path)[0] == taken(folder, tmp_path)[0]


def damage(stranger: Stranger, how: str) -> None:
    """Break the layout in one way."""
    root = stranger.root
    if how == "another architecture":
        stranger.config["architecture"] = "arm64"
    elif how == "a diff_id that is another":
        stranger.config["rootfs"]["diff_ids"][1] = "sha256:" + "0" * 64
    elif how == "too few diff_ids":
        stranger.config["rootfs"]["diff_ids"].pop()
    elif how == "a digest that is a path":
        stranger.manifest["layers"] = [{"mediaType": stranger.media, "digest": "sha256:../../../etc/passwd", "size": 1}]
    elif how == "a kind of layer that is not known":
        stranger.media = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    elif how == "a size that is another":
        stranger.image["size"] = 17
    elif how == "no list":
        stranger.index["manifests"] = {}
    elif how == "a layer that leads outside":
        stranger.layers[1] = tar(member("../../root/.ssh/authorized_keys"))
        stranger.config["rootfs"]["diff_ids"][1] = stranger.digest(stranger.layers[1])
    elif how == "too many layers":
        stranger.manifest["layers"] = [{"mediaType": stranger.media, "digest": "sha256:" + "0" * 64, "size": 1}] * 200
    stranger.write()
    blobs = sorted((root / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    if how == "a changed layer":
        data = bytearray(blobs[-1].read_bytes())
        data[-10] ^= 1
        blobs[-1].write_bytes(data)
    elif how == "a missing layer":
        blobs[-1].unlink()
    elif how == "a layer that is a device":
        blobs[-1].unlink()
        blobs[-1].symlink_to("/dev/zero")
    elif how == "an index that is nested too deeply":
        (root / "index.json").write_text("[" * 1000 + "]" * 1000)
    elif how == "an index that is too large":
        (root / "index.json").write_bytes(b" " * (5 << 20))


@pytest.mark.parametrize(
    "how",
    [
        *("another architecture", "a diff_id that is another", "too few diff_ids", "a digest that is a path"),
        *("a kind of layer that is not known", "a size that is another", "no list", "a layer that leads outside"),
        *("too many layers", "a changed layer", "a missing layer", "a layer that is a device"),
        *("an index that is nested too deeply", "an index that is too large"),
    ],
)
def test_a_layout_that_is_not_sound_is_refused(tmp_path: Path, stranger: Stranger, how: str) -> None:
    damage(stranger, how)
    with pytest.raises(ImageError):
        taken(stranger.root, tmp_path)


def test_one_of_several_images_is_chosen_by_name(tmp_path: Path, stranger: Stranger) -> None:
    first = stranger.listed()
    stranger.config["config"]["Env"] = ["OTHER=1"]
    stranger.image = {"annotations": {"org.opencontainers.image.ref.name": "other"}}
    stranger.write(first, {**first, "artifactType": "application/spdx+json", "digest": "sha256:" + "9" * 64})
    with pytest.raises(ImageError, match="2 images") as caught:
        taken(stranger.root, tmp_path)
    assert "debian, other" in (caught.value.fix or "")
    assert taken(stranger.root, tmp_path, "other")[0].settings.Env == ["OTHER=1"]
    with pytest.raises(ImageError, match="no image named 'none'"):
        taken(stranger.root, tmp_path, "none")


def test_an_index_in_an_index_is_followed_and_circles_end(tmp_path: Path, stranger: Stranger) -> None:
    inner = stranger.blob(
        "application/vnd.oci.image.index.v1+json", json.dumps({"manifests": [stranger.listed()]}).encode()
    )
    stranger.index["manifests"] = [{**inner, "annotations": {"org.opencontainers.image.ref.name": "multi"}}]
    assert taken(stranger.write(), tmp_path, "multi")[0].name == "multi"


# --- what cannot be an image ------------------------------------------------------------------------------------------


def test_locks_that_cannot_be_images_are_refused(tmp_path: Path) -> None:
    options = ImageOptions(fetch=FetchOptions(cache=tmp_path / "cache", offline=True))
    with pytest.raises(ImageError, match="Linux"):
        make_image(locked(package("python"), platform="osx-arm64"), tmp_path / "i", options, SILENT)
    left = {"linux-64": (pip_package("einops", "0.8"),)}
    with pytest.raises(LockfileError, match="einops"):
        make_image(locked(package("python"), pip=left), tmp_path / "i", options, SILENT)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep")
    with pytest.raises(ImageError, match="not overwritten"):
        make_image(locked(package("python")), tmp_path / "mine", options, SILENT)
    assert (tmp_path / "mine" / "file").read_text() == "keep"

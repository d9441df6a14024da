"""Images for real: made from a tiny channel, read back by skopeo, umoci and buildah, run, and verified inside."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from conftest import LAYOUT, Checkout
from support import small_disk
from tiny_channel import PLATFORM, TinyChannel, make_channel
from torchlocks.core.errors import DiskFullError, IntegrityError
from torchlocks.core.progress import Silent
from torchlocks.export.environment import LockedTarget
from torchlocks.host.detect import host_platform
from torchlocks.image.write import Image, ImageOptions, make_image
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.fsck import fsck

SILENT = Silent()
pytestmark = pytest.mark.skipif(host_platform() != PLATFORM, reason=f"the tiny packages are for {PLATFORM}")
SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> TinyChannel:
    made = make_channel(tmp_path_factory.mktemp("image") / "channel")
    made.package("pytorch", {"lib/libtorch.so": "torch" * 1000}, build="cpu_0", depends=["python"])
    made.package(
        "activated",
        {
            "etc/conda/activate.d/tiny.sh": "export TINY=$CONDA_PREFIX/share\n",
            "etc/conda/env_vars.d/a.json": '{"A": "b"}',
        },
    )
    return made


def locked(channel: TinyChannel) -> LockedTarget:
    lock = channel.lock()
    packages = tuple(sorted(lock.packages[PLATFORM], key=lambda package: package.name))
    return LockedTarget(
        name="tiny", platform=PLATFORM, lock=lock, packages=packages, target=None, platforms=(PLATFORM,)
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tar of a file system that has a shell and nothing else: this machine's dash or bash, and what it links to."""
    root = tmp_path_factory.mktemp("base") / "root"
    shell = Path("/bin/sh").resolve()
    listed = subprocess.run(["ldd", str(shell)], capture_output=True, text=True, check=True).stdout
    libraries = {Path(word) for line in listed.splitlines() for word in line.split() if word.startswith("/")}
    for path in {shell, *libraries, Path(shutil.which("env") or "/usr/bin/env")}:
        (root / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, root / path.relative_to("/"), follow_symlinks=True)
    (root / "bin").mkdir(exist_ok=True)
    if not (root / "bin" / "sh").exists():
        shutil.copy2(shell, root / "bin" / "sh")
    (root / "opt").mkdir()
    (root / "opt").chmod(0o711)
    (root / "tmp").mkdir()
    packed = root.with_suffix(".tar")
    subprocess.run(["tar", "-C", str(root), "--owner=0", "--group=0", "-cf", str(packed), "."], check=True)
    return packed


def make(channel: TinyChannel, output: Path, cache: Path, **options: Any) -> Image:
    return make_image(locked(channel), output, ImageOptions(fetch=FetchOptions(cache=cache), **options), SILENT)


@pytest.fixture(scope="module")
def image(channel: TinyChannel, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("made")
    return make(channel, folder / "image", folder / "cache", base=base)


def blob(image: Image, digest: str) -> Any:
    return json.loads((image.path / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes())


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_blob_is_what_the_index_leads_to(image: Image) -> None:
    index = json.loads((image.path / "index.json").read_bytes())
    listed, referrer = index["manifests"]
    assert listed["digest"] == image.digest
    assert listed["annotations"] == {"org.opencontainers.image.ref.name": "tiny"}
    manifest, bill = blob(image, image.digest), blob(image, referrer["digest"])
    known = {listed["digest"], referrer["digest"], manifest["config"]["digest"], bill["config"]["digest"]}
    known |= {each["digest"] for each in (*manifest["layers"], *bill["layers"])}
    files = list((image.path / "blobs/sha256").iterdir())
    assert {f"sha256:{path.name}" for path in files} == known
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert [each.get("annotations") for each in manifest["layers"][1:]] == [
        {"torchlocks.layer": "torch"},
        {"torchlocks.layer": "rest"},
    ]
    assert manifest["annotations"]["torchlocks.lock.sha256"] == locked_sha256(image)


def locked_sha256(image: Image) -> str:
    labels: dict[str, str] = blob(image, blob(image, image.digest)["config"]["digest"])["config"]["Labels"]
    return labels["torchlocks.lock.sha256"]


def test_the_bill_of_materials_refers_to_the_image(image: Image) -> None:
    referrer = blob(image, image.sbom_digest)
    assert referrer["subject"]["digest"] == image.digest
    assert referrer["artifactType"] == referrer["layers"][0]["mediaType"] == "application/vnd.cyclonedx+json"
    bill = blob(image, referrer["layers"][0]["digest"])
    assert {each["name"] for each in bill["components"]} >= {"python", "pytorch", "activated"}


def test_the_same_lock_gives_the_same_bytes_anywhere(
    image: Image, channel: TinyChannel, base: Path, tmp_path: Path
) -> None:
    mask = os.umask(0o077)
    try:
        again = make(channel, tmp_path / "another place" / "image.tar", tmp_path / "another cache", base=base)
    finally:
        os.umask(mask)
    assert again.digest == image.digest
    with tarfile.open(again.path) as archive:
        packed = {member.name: member for member in archive if member.isfile()}
        ours = {path.relative_to(image.path).as_posix(): path for path in image.path.rglob("*") if path.is_file()}
        assert set(packed) == set(ours)
        for name, member in packed.items():
            file = archive.extractfile(member)
            assert file is not None
            assert file.read() == ours[name].read_bytes(), name
    assert not list(again.path.parent.glob(".*"))


def test_a_changed_package_changes_its_layer_alone(
    image: Image, channel: TinyChannel, base: Path, tmp_path: Path
) -> None:
    other = TinyChannel(channel.root, list(channel.packages))
    other.packages = [each for each in other.packages if each.name != "many"]
    changed = make(other, tmp_path / "image", tmp_path / "cache", base=base)
    before = {layer.group: layer.digest for layer in image.layers}
    after = {layer.group: layer.digest for layer in changed.layers}
    assert before["torch"] == after["torch"]
    assert before["rest"] != after["rest"]


def test_an_image_is_a_base_for_another(image: Image, channel: TinyChannel, tmp_path: Path) -> None:
    made = make(channel, tmp_path / "two", tmp_path / "cache", base=image.path, prefix="/srv/two", compression="zstd")
    manifest = blob(made, made.digest)
    assert manifest["annotations"]["org.opencontainers.image.base.digest"] == image.digest
    assert len(manifest["layers"]) == 5
    config = blob(made, manifest["config"]["digest"])
    variables = dict(entry.split("=", 1) for entry in config["config"]["Env"])
    assert variables["PATH"].startswith("/srv/two/bin:/opt/env/bin:")
    assert len(config["config"]["Entrypoint"]) == 4


def test_a_full_disk_is_reported_before_anything_is_written(channel: TinyChannel, base: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        with pytest.raises(DiskFullError):
            make(channel, disk / "image", tmp_path / "cache", base=base)
        assert not list(disk.iterdir())


def test_a_file_that_removes_others_leaves_no_image(tmp_path: Path) -> None:
    made = make_channel(tmp_path / "channel")
    made.raw("evil", {"lib/.wh.python3.11": "x"})
    with pytest.raises(IntegrityError):
        make(made, tmp_path / "out" / "image", tmp_path / "cache")
    assert not list((tmp_path / "out").iterdir())


def test_the_verb_replaces_its_own_image(channel: TinyChannel, copy_lock: Path, tmp_path: Path) -> None:
    checkout = Checkout(LAYOUT.root)
    options = ("image", str(copy_lock), "--platform", PLATFORM, "-o", str(tmp_path / "image"), "--json")
    first, second = (checkout.run(*options, TORCHLOCKS_CACHE=str(tmp_path / "cache")) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert json.loads(first.stdout) == json.loads(second.stdout)
    (tmp_path / "image" / "oci-layout").unlink()
    assert checkout.run(*options, TORCHLOCKS_CACHE=str(tmp_path / "cache")).returncode == 43


@pytest.fixture
def copy_lock(channel: TinyChannel, tmp_path: Path) -> Path:
    """An explicit file of the tiny channel."""
    lines = [f"{each.url}#sha256:{each.sha256}" for each in channel.packages]
    path = tmp_path / "tiny-linux-64.lock"
    path.write_text("\n".join(["# platform: linux-64", "@EXPLICIT", *lines]) + "\n")
    return path


# --- other tools ------------------------------------------------------------------------------------------------------


@needs("skopeo")
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_skopeo_reads_and_copies_it(channel: TinyChannel, base: Path, tmp_path: Path, compression: str) -> None:
    made = make(channel, tmp_path / "image", tmp_path / "cache", base=base, compression=compression)
    seen = json.loads(run("skopeo", "inspect", f"oci:{made.path}:tiny"))
    assert seen["Digest"] == made.digest
    assert "A=b" in seen["Env"]
    assert len(seen["Layers"]) == 3
    run("skopeo", "copy", "-q", f"oci:{made.path}:tiny", f"oci-archive:{tmp_path / 'copy.tar'}:x")
    copied = make(channel, tmp_path / "on a copy", tmp_path / "cache", base=tmp_path / "copy.tar", prefix="/srv/env")
    assert blob(copied, copied.digest)["annotations"]["org.opencontainers.image.base.digest"] == made.digest


@needs("umoci")
@pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="umoci needs root to restore owners")
def test_umoci_unpacks_the_environment_and_it_runs(image: Image, tmp_path: Path) -> None:
    run("umoci", "stat", "--image", f"{image.path}:tiny")
    run("umoci", "unpack", "--image", f"{image.path}:tiny", tmp_path / "bundle")
    root = tmp_path / "bundle" / "rootfs"
    process = json.loads((tmp_path / "bundle" / "config.json").read_text())["process"]
    variables = dict(entry.split("=", 1) for entry in process["env"])
    assert run("env", "-i", f"PATH={variables['PATH']}", "chroot", root, "/opt/env/bin/python") == "tiny\n"
    # Folders that the base has keep their modes.
    assert (root / "opt").stat().st_mode & 0o777 == 0o711
    assert (root / "opt/env").stat().st_mode & 0o777 == 0o755
    command = [*process["args"][:2], "/bin/sh", "-c", 'echo "$TINY"']
    assert run("env", "-i", *process["env"], "chroot", root, *command) == "/opt/env/share\n"
    # Inside, the environment is as its packages and its own records say.
    (tmp_path / "opt").mkdir()
    (root / "opt/env").rename(tmp_path / "opt/env")
    assert b"/opt/env/bin" in (tmp_path / "opt/env/bin/python3.11").read_bytes()
    findings = fsck(tmp_path / "opt/env", fix=False, progress=SILENT)
    assert findings.ok, findings


@pytest.mark.skipif(not SLOW, reason="minutes, and gigabytes of disk: TORCHLOCKS_SLOW=1")
@needs("buildah", "debootstrap")
def test_the_suite_runs_in_an_image_on_debian(environment: Path, tmp_path: Path) -> None:
    root = tmp_path / "bookworm"
    run("debootstrap", "--variant=minbase", "bookworm", root)
    run("tar", "-C", root, "-cf", tmp_path / "base.tar", ".")
    shutil.rmtree(root)
    checkout = Checkout(LAYOUT.root)
    options = ("image", "cpu", "--channel", "local", "--base", str(tmp_path / "base.tar"), "--offline", "--json")
    made = [json.loads(checkout.run(*options, "-o", str(tmp_path / name)).stdout) for name in ("one", "two.tar")]
    assert made[0]["digest"] == made[1]["digest"]
    storage = ("--storage-driver", "vfs", "--root", tmp_path / "storage", "--runroot", tmp_path / "run")
    container = run("buildah", *storage, "from", f"oci:{tmp_path / 'one'}:cpu").strip()
    inside = ("buildah", *storage, "run", "--isolation", "chroot", "-v", f"{LAYOUT.suite}:/suite:ro", container, "--")
    run(*inside, "python", "-I", "/suite/torchsuite/__main__.py", "--expect", "cpu", "--report", "/tmp/report.json")
    report = json.loads(run(*inside, "cat", "/tmp/report.json"))
    assert report["prefix"] == "/opt/env"
    assert not [each for each in report["checks"] if each["outcome"] in ("failed", "error")]

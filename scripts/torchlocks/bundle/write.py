"""A lock → one file for installation without a network: packages, lock, installer.

A bundle is a plain tar (its packages are compressed already) of one folder, which is also a channel for any conda
client. It contains the archives that the lock names, so that everyone with the lock can check them. These are mostly
`.conda` files, which Python's standard library reads from 3.14 on; before that the installer uses what reads Zstandard
on the machine (see `installer.zstd`). For machines without any, a portable bundle has each package as a `.tar.bz2`,
made from the verified archive: every Python 3.8 and every conda client reads these, but the archive's hash is then the
bundle's own and not the lock's, and bzip2 is slow (the CPU environment of the local channel, on two busy cores: 140 s
to make instead of 6, 76 s to install instead of 24; both files have 210 MB).

The same lock gives the same bytes: files are sorted, times, owners and modes are fixed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from torchlocks import __version__
from torchlocks.bundle.archive import SUMS, write_tar
from torchlocks.bundle.channel import BundledFile, write_channel
from torchlocks.bundle.installer.model import Package as BundledPackage
from torchlocks.core.disk import require_space, scratch_beside, written_to
from torchlocks.core.errors import InstallError, LockfileError, MissingFileError
from torchlocks.core.files import hash_file
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.core.quantities import shortened
from torchlocks.core.urls import strip_credentials
from torchlocks.install.exclusive import interruptible
from torchlocks.install.fetch_options import FetchOptions, packages_for, require_hashes
from torchlocks.lockfile.explicit import link_order, write_explicit
from torchlocks.lockfile.fields import secret_line
from torchlocks.lockfile.models import Lock, LockedPackage

# Room for packages that grow when they are repacked: conda-forge compresses harder than bzip2 can.
_REPACKED = 2

_LISTED = "packages.txt"
_README = """\
{name} for {platform}: a locked PyTorch environment, with all of its packages.
Nothing here needs a network. All commands are meant for this folder.

With Python 3.8 or newer, and nothing else:

    python3 install.py PREFIX          check everything, then install into the folder PREFIX
    python3 install.py --check         check everything: every package against {lock}
{zstd}
With conda, mamba or micromamba:

    python3 install.py --explicit here.txt
    conda create --offline -p PREFIX --file here.txt        (or: micromamba create --offline -p PREFIX --file here.txt)

With a conda client and no Python (the packages are in {listed} in the order in which they must be linked, Python before
its modules, and with their hashes):

    sha256sum -c {sums}
    sed "s|BUNDLE|$PWD|" {listed} > here.txt
    micromamba create --offline -p PREFIX --file here.txt

The folder channel/ is a conda channel of its own: file://$PWD/channel.

Use the environment:

    PREFIX/bin/python -c "import torch; print(torch.__version__)"       (on Windows: PREFIX\\python.exe)
    conda activate PREFIX                                               (or: micromamba activate PREFIX)
    eval "$(micromamba shell hook -s posix)"                            (first, where no shell was set up)

Check it, now or later, with torchlocks:

    torchlocks verify PREFIX       run the suite in it
    torchlocks fsck PREFIX         compare its files with its packages
    torchlocks shell PREFIX        work in it
{torchlocks}"""
_ZSTD = """
The packages are compressed with Zstandard. Python 3.14 reads it; older ones use the system's libzstd (nearly every
Linux has it), the zstd command, or the Python module zstandard or backports.zstd. Where there is none of these, make
the bundle with PORTABLE=1.
"""
_PORTABLE = """
This bundle is portable: its packages were repacked as .tar.bz2, which every Python reads, out of archives that had the
hashes in {lock}. Their own hashes are in bundle.json and {sums}. Nothing in the bundle proves that the repacked
archives have the contents of the locked ones: you must trust the source of bundle.json. So install.py requires one of
these:

    --manifest-sha256 HEX                       the sum of bundle.json, which `make bundle` printed
    --allowed-signers FILE --signer IDENTITY    bundle.json.sig, made by: ssh-keygen -Y sign -n torchlocks-lock -f KEY
    --unproven                                  no proof at all
"""
_TORCHLOCKS = """
With torchlocks, the packages can be copied into the package cache, for `make env-cpu OFFLINE=1` and the like:

    torchlocks bundle --unpack FILE.tar
"""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle: the file, its size in bytes, its hash, and the number of its packages.

    `manifest_sha256` is the hash of the bundle.json inside, which has the hash of every archive.
    """

    path: Path
    size: int
    sha256: str
    manifest_sha256: str
    packages: int


def bundle_environment(
    layout: Layout,
    env: str,
    platform: str,
    *,
    local: bool = False,
    output: Path | None = None,
    fetch: FetchOptions,
    progress: Progress,
    portable: bool = False,
) -> Bundle:
    """Bundle an environment of the matrix from its committed lock, or its `local` one.

    `output` is the file (default: `build/bundles/<env>-<platform>.tar`). Raises NoSuchRowError for what is not in the
    matrix, MissingFileError if there is no such lock, and what `make_bundle` raises.
    """
    from torchlocks.lockfile.open import open_lock
    from torchlocks.matrix.load import load_matrix

    matrix = load_matrix(layout.matrix)
    target = matrix.local_target(env, platform) if local else matrix.target(env, platform)
    path = (layout.local_locks if local else layout.locks) / env / "conda-lock.yml"
    if not path.is_file():
        raise MissingFileError(
            f"There is no {'local ' if local else ''}lock of {env}.",
            where=str(path),
            fix=f"make env-{f'gpu CUDA={target.cuda}' if target.cuda else env} CHANNEL=local makes one"
            if local
            else f"make it: make lock ENV={env}",
        )
    file = f"{env}-{platform}{'-portable' if portable else ''}.tar"
    return make_bundle(
        open_lock(str(path)),
        platform,
        output or layout.build / "bundles" / file,
        name=env,
        fetch=fetch,
        progress=progress,
        portable=portable,
    )


def make_bundle(
    lock: Lock,
    platform: str,
    output: Path,
    *,
    name: str,
    fetch: FetchOptions,
    progress: Progress,
    portable: bool = False,
) -> Bundle:
    """Write the bundle of `lock` for `platform` to the file `output`; `name` is the environment's name.

    With `portable`, packages are repacked for machines that cannot read Zstandard. The file is written in one step and
    replaces an older one only then. Raises LockfileError if the lock does not have the platform or cannot be bundled,
    what `fetch.fetch_archives` raises, DiskFullError, InstallError if the file cannot be written, and
    InterruptedByUserError.
    """
    packages = _bundled(lock, platform)
    output = output.absolute()
    if output.is_dir():
        raise InstallError("The bundle is a file, and this is a folder.", where=str(output), fix="name a file.")
    writing = written_to(output, InstallError, "The bundle", "choose another file.")
    with interruptible(), writing, scratch_beside(output) as scratch:
        _require_room(packages, scratch, portable)
        folder = scratch / "bundle"
        files = write_channel(packages, folder / "channel", platform, scratch, fetch, progress, portable)
        # Installing the bundle needs no credentials of its channel.
        packages = [replace(each, url=strip_credentials(each.url)) for each in packages]
        _write_lock(replace(lock, packages={platform: tuple(packages)}), platform, folder, progress)
        manifest = _write_manifest(lock, platform, name, packages, files, folder, portable)
        python = tuple(f"/python-{each.version}-{each.build}." for each in packages if each.name == "python")
        # In a cycle of dependencies, packages with modules can come before Python.
        ordered = sorted(files, key=lambda each: not any(name in each.file for name in python))
        listed = [f"file://BUNDLE/{each.file}#{each.sha256}" for each in ordered]
        (folder / _LISTED).write_text("\n".join(["@EXPLICIT", *listed, ""]), encoding="utf-8")
        (folder / "README.txt").write_text(
            _README.format(
                name=name,
                platform=platform,
                lock=f"conda-{platform}.lock",
                sums=SUMS,
                listed=_LISTED,
                zstd=(_PORTABLE if portable else _ZSTD).format(lock=f"conda-{platform}.lock", sums=SUMS),
                torchlocks="" if portable else _TORCHLOCKS,
            ),
            encoding="utf-8",
        )
        _copy_installer(folder)
        if platform.startswith("win-"):
            # The launcher that conda and pip install beside a script on Windows; setuptools contains it as a file.
            launcher = "cli-arm64.exe" if platform == "win-arm64" else "cli-64.exe"
            (folder / "launcher.exe").write_bytes((resources.files("setuptools") / launcher).read_bytes())
        made = scratch / output.name
        known = {each.file: each.sha256 for each in files}
        sha256 = write_tar(folder, f"{name}-{platform}", made, known, progress)
        size = made.stat().st_size
        made.replace(output)
    return Bundle(path=output, size=size, sha256=sha256, manifest_sha256=manifest, packages=len(packages))


def _bundled(lock: Lock, platform: str) -> list[LockedPackage]:
    packages = link_order(packages_for(lock, platform))
    require_hashes(packages, allow_md5=False)
    if others := lock.pip.get(platform):
        raise LockfileError(
            "The lock names packages for pip, which a bundle cannot contain: "
            f"{shortened([each.requirement for each in others])}.",
            where=str(lock.path),
            fix="take them out of the environment, and lock again.",
        )
    seen: dict[tuple[str, str], LockedPackage] = {}
    for each in packages:
        other = seen.setdefault((each.subdir, each.file_name), each)
        if other is not each:
            raise LockfileError(
                f"The lock has {each.file_name} twice.", where=f"{other.url} and {each.url}", fix="lock again."
            )
    return packages


def _require_room(packages: Sequence[LockedPackage], folder: Path, portable: bool) -> None:
    # Downloaded, and once more in the tar.
    needed = sum(each.size or 0 for each in packages) * 2 * (_REPACKED if portable else 1)
    require_space(folder.parent, needed, "The bundle needs", "make room, or choose another disk.")


def _write_lock(lock: Lock, platform: str, folder: Path, progress: Progress) -> None:
    """Write the lock as an explicit file, and the lockfile itself if it has no secrets."""
    (folder / f"conda-{platform}.lock").write_text(write_explicit(lock, platform), encoding="utf-8")
    if not lock.path.is_file():
        return
    if hash_file(lock.path) != lock.sha256:
        raise LockfileError("The lock has changed since it was read.", where=str(lock.path), fix="run it again.")
    copies = {} if lock.kind == "explicit" else {lock.path: "pixi.lock" if lock.kind == "pixi" else "conda-lock.yml"}
    beside = lock.path.with_name("pixi.lock")
    if lock.kind == "conda-lock" and beside.is_file():
        copies[beside] = "pixi.lock"
    for path, name in copies.items():
        if secret_line(path.read_text(encoding="utf-8")) is not None:
            progress.warn(f"{name} is left out of the bundle: it has credentials; conda-{platform}.lock has none")
        else:
            shutil.copyfile(path, folder / name)


def _copy_installer(folder: Path) -> None:
    """Write `install.py` and the package that it runs."""
    source = resources.files("torchlocks.bundle")
    (folder / "install.py").write_bytes((source / "install.py").read_bytes())
    (folder / "installer").mkdir()
    for module in (source / "installer").iterdir():
        if module.name.endswith(".py"):
            (folder / "installer" / module.name).write_bytes(module.read_bytes())


def _write_manifest(
    lock: Lock,
    platform: str,
    name: str,
    packages: Sequence[LockedPackage],
    files: Sequence[BundledFile],
    folder: Path,
    portable: bool,
) -> str:
    """Write the file that `installer.reading.read_bundle` reads; returns its sha256."""
    entries = [
        BundledPackage(
            name=package.name,
            version=package.version,
            build=package.build,
            subdir=package.subdir,
            url=package.url,
            sha256=package.sha256 or "",
            md5=package.md5,
            size=package.size,
            file=file.file,
            file_sha256=file.sha256,
        )._asdict()
        for package, file in zip(packages, files, strict=True)
    ]
    content = {
        "schema": 1,
        "portable": portable,
        "name": name,
        "platform": platform,
        "lock": {"name": lock.path.name, "kind": lock.kind, "sha256": lock.sha256},
        "torchlocks": __version__,
        "packages": entries,
    }
    data = (json.dumps(content, indent=1) + "\n").encode()
    (folder / "bundle.json").write_bytes(data)
    return hashlib.sha256(data).hexdigest()

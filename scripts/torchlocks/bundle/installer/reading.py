"""An unpacked bundle → its manifest and lock, compared with each other and with the files."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from .files import Counted, hash_file, leaves, load_json, read_file, shown, workers
from .model import Bundle, BundleError, Package

if TYPE_CHECKING:
    from collections.abc import Callable


def read_bundle(folder: Path) -> Bundle:
    """Read the bundle in `folder`. Raises BundleError if its manifest or lock is invalid."""
    try:
        manifest = read_file(folder / "bundle.json")
        content = load_json(manifest)
        if content["schema"] != 1:
            raise BundleError("The bundle has a newer format.", "use the install.py that is inside it.")
        packages = tuple(Package(**{key: each[key] for key in Package._fields}) for each in content["packages"])
        bundle = Bundle(
            folder=folder,
            name=content["name"],
            platform=content["platform"],
            lock_name=content["lock"]["name"],
            lock_kind=content["lock"]["kind"],
            lock_sha256=content["lock"]["sha256"],
            torchlocks=content["torchlocks"],
            packages=packages,
            portable=content.get("portable", False) is True,
            manifest=manifest,
        )
        locked = _read_explicit(folder / f"conda-{bundle.platform}.lock")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"There is no complete bundle in {folder}: {error!r}.") from error
    for each in packages:
        if locked.pop(each.url, None) != each.sha256:
            raise BundleError(f"The bundle and the lock inside it disagree on {each.url}.")
        if not bundle.portable and each.file_sha256 != each.sha256:
            raise BundleError(f"The bundle has another archive of {each.url} than the lock inside it names.")
        if leaves(each.file) or leaves(each.subdir) or set("/\\") & set(each.record_name):
            raise BundleError(f"The bundle names a file outside of it: {each.file!r}.")
    if locked:
        raise BundleError(f"{len(locked)} packages of the lock are not in the bundle, such as {min(locked)}.")
    return bundle


def _read_explicit(path: Path) -> dict[str, str]:
    lines = read_file(path).decode("utf-8").split("@EXPLICIT\n", 1)[1].splitlines()
    return dict(line.split("#", 1) for line in lines if line)


def check_files(bundle: Bundle, say: Callable[[str], None]) -> None:
    """Compare every file with SHA256SUMS and every archive with the lock. Raises BundleError at the first that
    differs.
    """
    expected = {}
    try:
        sums = read_file(bundle.folder / "SHA256SUMS")
    except OSError as error:
        raise BundleError(f"The bundle's SHA256SUMS cannot be read: {error}.") from error
    for line in sums.decode("utf-8", "replace").splitlines():
        digest, _, name = line.partition("  ")
        expected[name] = digest
    for each in bundle.packages:
        if expected.setdefault(each.file, each.file_sha256) != each.file_sha256:
            raise BundleError(f"SHA256SUMS and the bundle disagree on {each.file}.")
    say(f"Checking {len(expected)} files")

    def wrong(item: tuple[str, str]) -> str | None:
        name, digest = item
        if leaves(name):
            return f"SHA256SUMS names a file outside of the bundle: {name!r}."
        try:
            found = hash_file(bundle.folder / name)
        except (OSError, ValueError) as error:
            return f"{shown(name)} cannot be read: {getattr(error, 'strerror', None) or error}."
        return (
            None if found == digest else f"{shown(name)} is damaged: its SHA-256 sum is {found}; it should be {digest}."
        )

    counted = Counted("Checking files", len(expected), say)
    with ThreadPoolExecutor(max_workers=workers()) as pool:
        for what in pool.map(wrong, sorted(expected.items())):
            if what is not None:
                raise BundleError(what)
            counted.advance()


def prove(bundle: Bundle, sha256: str | None, signers: Path | None, signer: str | None, unproven: bool) -> str:
    """Return the proof that the archives are the locked ones, as text. Raises BundleError without one.

    A portable bundle has repacked archives, whose contents it cannot prove by itself: its manifest must have the hash
    `sha256` from another source, or be signed by `signer`, unless `unproven` is set.
    """
    if signers is not None:
        return _signed(bundle, signers, signer)
    if sha256 is not None:
        found = hashlib.sha256(bundle.manifest).hexdigest()
        if found != sha256.strip().lower():
            raise BundleError(f"bundle.json has the SHA-256 sum {found}, and not the one that was given.")
        return "all as in the manifest with the given hash"
    if not bundle.portable:
        return "all as locked"
    if unproven:
        return "all as in this bundle's own manifest; NOT proven to be the locked ones"
    raise BundleError(
        "The bundle is portable: its packages were repacked, and nothing proves that they have the locked contents.",
        "give the SHA-256 sum of bundle.json from its maker (--manifest-sha256), or a file of allowed signers "
        "(--allowed-signers) if there is a bundle.json.sig, or --unproven if you trust its source.",
    )


def _signed(bundle: Bundle, signers: Path, signer: str | None) -> str:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise BundleError("Signatures require ssh-keygen, which is not installed.", "install OpenSSH 8.2 or newer.")
    if signer is None:
        raise BundleError("An identity must be named with --allowed-signers.", "add --signer IDENTITY.")
    with tempfile.TemporaryDirectory() as scratch:
        signature = Path(scratch) / "sig"
        signature.write_bytes(read_file(bundle.folder / "bundle.json.sig"))
        done = subprocess.run(
            [program, "-Y", "verify", "-f", str(signers), "-I", signer, "-n", "torchlocks-lock", "-s", str(signature)],
            input=bundle.manifest,
            capture_output=True,
            check=False,
        )
    if done.returncode != 0:
        output = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
        raise BundleError(f"bundle.json is not signed by {signer}: {output[:500]!r}.", "do not use this bundle.")
    return f"all as in the manifest that {signer} signed"


def explicit_text(bundle: Bundle) -> str:
    """Format an explicit file for conda clients, with the bundle's packages at their present paths."""
    lines = [f"# The packages of {bundle.folder}", f"# platform: {bundle.platform}", "@EXPLICIT"]
    for each in bundle.packages:
        lines.append(f"{(bundle.folder / each.file).absolute().as_uri()}#{each.file_sha256}")
    return "\n".join(lines) + "\n"

"""Sign locks and verify their detached signatures with ssh-keygen: offline, with existing SSH keys.

A signature is the file `<lock>.sig` beside its lock, in OpenSSH's format (PROTOCOL.sshsig; OpenSSH 8.2 or newer). The
allowed signers are in a file in the format of git and ssh-keygen (section ALLOWED SIGNERS of ssh-keygen's manual).
Signatures are made for a namespace: one for git or mail is not valid for a lock.
"""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from torchlocks.core.disk import written_to
from torchlocks.core.errors import FetchError, MissingFileError, SignatureError
from torchlocks.core.files import write_whole
from torchlocks.core.systems import here
from torchlocks.lockfile.models import Lock

NAMESPACE = "torchlocks-lock"
SUFFIX = ".sig"
_GOOD = re.compile(r'Good "[^"]*" signature (?:for (?P<who>.+) )?with (?P<key>\S+ key \S+)')
_ARMOUR = b"-----BEGIN SSH SIGNATURE-----"


@dataclass(frozen=True, kw_only=True)
class Signer:
    """The signer: the `identity` of the key in the file of allowed signers, and the `key` (kind, fingerprint)."""

    identity: str
    key: str


def sign(lock: Path, key: Path) -> Path:
    """Sign a lockfile; returns the signature's path, `<lock>.sig`.

    `key` is a private key, or a public one whose private key is in the SSH agent. Raises MissingFileError if lock or
    key do not exist, LockfileError if the file is not a lock, SignatureError if ssh-keygen does not sign.
    """
    from torchlocks.lockfile.formats import parse_lock
    from torchlocks.lockfile.open import read_bytes

    _require_key(key)
    data = read_bytes(str(lock))
    parse_lock(data, lock)
    return sign_file(lock, data, key)


def sign_file(lock: Path, data: bytes, key: Path, *, namespace: str = NAMESPACE) -> Path:
    """Sign the bytes `data` of the file `lock` for a namespace; returns the signature's path.

    Raises MissingFileError if the key does not exist, SignatureError if ssh-keygen does not sign.
    """
    _require_key(key)
    # By standard input: for a file, ssh-keygen prompts before it replaces an existing signature.
    done = _ssh_keygen(["sign", "-f", str(key), "-n", namespace], data)
    if done.returncode != 0:
        raise SignatureError(
            "ssh-keygen could not sign the lock.",
            where=str(lock),
            fix="see its output below; a key with a passphrase needs a terminal or the SSH agent",
            details=_output(done),
        )
    signature = signature_of(lock)
    advice = "make the folder of the lock writable, or copy the lock elsewhere and sign it there"
    with written_to(signature, SignatureError, "The signature", advice):
        write_whole(signature, done.stdout.decode())
    return signature


def _require_key(key: Path) -> None:
    if not key.is_file():
        raise MissingFileError(
            "There is no such key.", where=str(key), fix="make one (ssh-keygen -t ed25519), or name yours with --key"
        )


def signature_of(lock: Path) -> Path:
    """Return the path of a lockfile's signature."""
    return lock.with_name(lock.name + SUFFIX)


def matches(data: bytes, signature: bytes, *, namespace: str = NAMESPACE) -> bool:
    """Return whether `signature` is one of exactly these bytes, by any key. Raises SignatureError if not valid."""
    try:
        _signing_key(data, signature, "", "", namespace)
    except _Changed:
        return False
    return True


def verify(
    data: bytes,
    signature: bytes,
    allowed: Path,
    *,
    signer: str | None = None,
    name: str,
    namespace: str = NAMESPACE,
) -> Signer:
    """Verify that `signature` is one of `data`, by one of the `allowed` signers, or by `signer` if given.

    `allowed` is a file of allowed signers, `name` the lock's name in messages. Raises MissingFileError if there is no
    such file, and SignatureError with the reason: the lock, the signature, or the signer.
    """
    trusted, asked = _allowed_signers(allowed), signer is not None
    key = _signing_key(data, signature, name, name + SUFFIX, namespace)
    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        # Copies, so that both commands read the same bytes.
        signers, sig = Path(scratch) / "allowed_signers", Path(scratch) / "signature"
        signers.write_bytes(trusted)
        sig.write_bytes(signature)
        if signer is None:
            found = _ssh_keygen(["find-principals", "-f", str(signers), "-s", str(sig)])
            names = found.stdout.decode(errors="replace").splitlines()
            if found.returncode != 0 or not names:
                what = f"The lock was signed with the {key}, which no allowed signer has"
                raise _not_allowed(what, found, signers, allowed)
            signer = names[0]
        done = _verify_as(signer, data, sig, signers, namespace)
        if done.returncode != 0:
            # ssh-keygen returns the first line with the key; another one may allow it for locks.
            other = None if asked else _by_line(data, sig, trusted, Path(scratch) / "one_signer", namespace)
            if other is None:
                what = f"The lock was signed with the {key}, which may not sign locks as {signer}"
                raise _not_allowed(what, done, signers, allowed)
            signer = other
    return Signer(identity=signer, key=key)


def _verify_as(
    signer: str, data: bytes, signature: Path, signers: Path, namespace: str
) -> subprocess.CompletedProcess[bytes]:
    arguments = ["-f", str(signers), "-I", signer, "-n", namespace, "-s", str(signature)]
    return _ssh_keygen(["verify", *arguments], data)


def _by_line(data: bytes, signature: Path, trusted: bytes, one: Path, namespace: str) -> str | None:
    """Return the first identity that any single line of the allowed signers permits for this lock, or None."""
    for line in trusted.splitlines():
        one.write_bytes(line + b"\n")
        found = _ssh_keygen(["find-principals", "-f", str(one), "-s", str(signature)])
        for name in found.stdout.decode(errors="replace").splitlines():
            if _verify_as(name, data, signature, one, namespace).returncode == 0:
                return name
    return None


def open_signed_lock(
    name: str, allowed: Path, *, signer: str | None = None, environment: str | None = None
) -> tuple[Lock, Signer]:
    """Read the lock `name` (a path or a URL) and the signature beside it, and verify it.

    The returned lock is parsed from exactly the verified bytes, without data of other files. Raises what `read_bytes`,
    `verify` and `parse_lock` raise.
    """
    from torchlocks.lockfile.formats import parse_lock
    from torchlocks.lockfile.open import path_of, read_bytes

    data = read_bytes(name)
    beside = signature_name(name)
    try:
        signature = read_bytes(beside)
    except MissingFileError:
        raise SignatureError(
            "The lock is not signed: there is no signature beside it.",
            where=beside,
            fix="sign it (torchlocks sign LOCK), or ask for the signature where the lock came from",
        ) from None
    except FetchError as error:
        raise FetchError(
            "The lock's signature cannot be fetched.",
            where=error.where,
            fix="see that there is one beside the lock, or fetch both yourself and name the file",
            details=error.details,
        ) from None
    who = verify(data, signature, allowed, signer=signer, name=name)
    return parse_lock(data, path_of(name), environment), who


def signature_name(name: str) -> str:
    """Return the path or URL of the signature of a lock's path or URL."""
    from urllib.parse import urlsplit, urlunsplit

    if "://" not in name:
        return name + SUFFIX
    parts = urlsplit(name)
    return urlunsplit(parts._replace(path=parts.path + SUFFIX))


def signable(path: Path) -> list[Path]:
    """Return the lockfiles of `path`: itself, or all in a folder. Raises MissingFileError if there are none."""
    if not path.is_dir():
        return [path]
    names = sorted((*path.glob("conda-lock.yml"), *path.glob("conda-*.lock"), *path.glob("pixi.lock")))
    if not names:
        raise MissingFileError("There is no lockfile in this folder.", where=str(path), fix="name locks/<environment>")
    return names


class _Changed(SignatureError):
    """The signature is one of other bytes."""


def _signing_key(data: bytes, signature: bytes, lock: str, name: str, namespace: str) -> str:
    """Return the key that made `signature` over `data` for a namespace. Raises SignatureError."""
    if _ARMOUR not in signature:
        raise SignatureError(
            "The signature is not one that ssh-keygen made.", where=name, fix="sign the lock: torchlocks sign LOCK"
        )
    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        sig = Path(scratch) / "signature"
        sig.write_bytes(signature)
        done = _ssh_keygen(["check-novalidate", "-n", namespace, "-s", str(sig)], data)
    output = _output(done)
    if done.returncode == 0 and (good := _GOOD.search(output)):
        return good["key"]
    if "namespace" in output:
        raise SignatureError(
            f"The signature was made for something else: it is not of the namespace {namespace}.",
            where=name,
            fix="sign the lock with `torchlocks sign LOCK`, or ssh-keygen -Y sign -n " + namespace,
            details=output,
        )
    if "incorrect signature" in output:
        raise _Changed(
            "The lock is not what was signed: it, or its signature, was changed afterwards.",
            where=f"{lock} and {name}",
            fix="do not install from it; get both again from where they came, or sign the lock again if you changed it",
            details=output,
        )
    raise SignatureError("The signature is damaged.", where=name, fix="get it again, or sign anew", details=output)


def _not_allowed(what: str, done: subprocess.CompletedProcess[bytes], signers: Path, allowed: Path) -> SignatureError:
    output = _output(done).replace(str(signers), str(allowed))
    reasons = {
        "has expired": "the key's time is over (valid-before)",
        "not yet valid": "the key's time has not begun (valid-after)",
        "not permitted for use in signature namespace": f"the key may not sign for the namespace {NAMESPACE}",
        "invalid key": "a line of the file is no key",
    }
    reason = next((reason for mark, reason in reasons.items() if mark in output), None)
    return SignatureError(
        what + (f": {reason}." if reason else "."),
        where=str(allowed),
        fix="install only if you trust that key, from a source that you trust: then add it to the allowed signers",
        details=output or None,
    )


def _allowed_signers(path: Path) -> bytes:
    from torchlocks.lockfile.open import read_bytes

    data = read_bytes(str(path))
    if not any(line.strip() and not line.lstrip().startswith(b"#") for line in data.splitlines()):
        raise SignatureError(
            "The file of allowed signers names nobody.", where=str(path), fix="one line a signer: IDENTITY KEYTYPE KEY"
        )
    if here.UNIX and path.stat().st_mode & stat.S_IWOTH:
        raise SignatureError(
            "Everybody on this machine can change who may sign.", where=str(path), fix=f"chmod o-w {path}"
        )
    return data


def _ssh_keygen(arguments: list[str], data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise SignatureError(
            "Signatures require ssh-keygen, which is not installed.",
            where="PATH",
            fix="install OpenSSH 8.2 or newer (Debian: openssh-client; Windows has it as an optional feature)",
        )
    return subprocess.run([program, "-Y", *arguments], input=data, capture_output=True, check=False)


def _output(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return ssh-keygen's output, without the lines that are in every output."""
    lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    useless = ("Could not verify signature.", "Signing data on standard input", _ARMOUR.decode())
    return "\n".join(line for line in lines if line.strip() and line not in useless)

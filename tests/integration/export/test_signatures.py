"""Signed locks with the real ssh-keygen: who may sign, and that no tampering gets an environment installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from faulty_server import faulty_server
from preloaded import run_torchlocks
from support import make_key
from tiny_channel import PLATFORM, make_channel
from torchlocks.check.repository import check_repository
from torchlocks.core.errors import SignatureError
from torchlocks.core.layout import Layout
from torchlocks.export.signatures import open_signed_lock, sign, signature_name
from torchlocks.host.detect import host_platform
from torchlocks.lockfile.explicit import write_explicit
from torchlocks.matrix.load import load_matrix

ME = "me@example.org"

pytestmark = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="ssh-keygen (OpenSSH) is not on this machine"
)
installs = pytest.mark.skipif(host_platform() != PLATFORM, reason=f"the tiny channel is for {PLATFORM}")


def torchlocks(*arguments: object, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"RATTLER_CACHE_DIR": str(cache)} if cache else {})}
    return run_torchlocks([str(each) for each in arguments], env=environment)


@dataclass(frozen=True)
class Signed:
    """A signed lock of a tiny channel, and who may sign it."""

    lock: Path
    key: Path
    public: str
    allowed: Path
    prefix: Path

    @property
    def signature(self) -> Path:
        return self.lock.with_name(self.lock.name + ".sig")

    def install(self, *more: object) -> subprocess.CompletedProcess[str]:
        cache = self.prefix.with_name("cache")
        return torchlocks("install", self.lock, self.prefix, "--verify-signature", self.allowed, *more, cache=cache)

    def sign_as(self, namespace: str, key: Path | None = None) -> None:
        """Sign with ssh-keygen itself, as people do."""
        self.signature.unlink()
        command = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(key or self.key), str(self.lock)]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an explicit lock of a tiny channel, signed by `key`."""
    folder = tmp_path_factory.mktemp("signed")
    channel = make_channel(folder / "channel")
    lock = channel.lock(packages=[each for each in channel.packages if each.version != "2.0"])
    (folder / "tiny.lock").write_text(write_explicit(lock, PLATFORM))
    public = make_key(folder / "key")
    (folder / "allowed_signers").write_text(f"# who may sign\n{ME} {public}\n")
    run = torchlocks("sign", folder / "tiny.lock", "--key", folder / "key")
    assert (run.returncode, run.stdout) == (0, f"wrote {folder / 'tiny.lock.sig'}\n"), run.stderr
    return folder


@pytest.fixture
def signed(template: Path, tmp_path: Path) -> Signed:
    for name in ("tiny.lock", "tiny.lock.sig", "key", "allowed_signers"):
        shutil.copy2(template / name, tmp_path / name)
    return Signed(
        lock=tmp_path / "tiny.lock",
        key=tmp_path / "key",
        public=(template / "key.pub").read_text().strip(),
        allowed=tmp_path / "allowed_signers",
        prefix=tmp_path / "prefix",
    )


@installs
def test_a_signed_lock_is_installed_and_its_signer_named(signed: Signed) -> None:
    run = signed.install()
    assert run.returncode == 0, run.stderr
    assert f"is signed by {ME} (ED25519 key SHA256:" in run.stderr
    assert (signed.prefix / "share" / "alpha.txt").is_file()
    # Installed already is not trusted already: the signature is looked at before anything else.
    signed.signature.unlink()
    assert signed.install().returncode == 34


@installs
def test_what_ssh_keygen_signed_by_itself_is_good_too(signed: Signed) -> None:
    signed.sign_as("torchlocks-lock")
    run = signed.install("--signer", ME, "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["changed"] is True


def edit(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def other_hash(signed: Signed) -> None:
    """What an attacker does who puts another package in the place of one."""
    digest = signed.lock.read_bytes().rsplit(b"#", 1)[1].strip()
    edit(signed.lock, digest, b"0" * len(digest))


def another_key(signed: Signed) -> None:
    make_key(signed.key.with_name("theirs"))
    signed.sign_as("torchlocks-lock", signed.key.with_name("theirs"))


def other_signers(signed: Signed) -> None:
    signed.allowed.write_text(f"{ME} {make_key(signed.key.with_name('theirs'))}\n")


def allow(options: str) -> Callable[[Signed], object]:
    """The key is allowed, but only with `options`."""
    return lambda signed: signed.allowed.write_text(f"{ME} {options} {signed.public}\n")


def signature_of_another_lock(signed: Signed) -> None:
    other = signed.lock.with_name("other.lock")
    other.write_bytes(signed.lock.read_bytes() + b"\n")
    sign(other, signed.key)
    shutil.copy(signature_name(str(other)), signed.signature)


def cut(signed: Signed) -> None:
    lines = signed.signature.read_text().splitlines()
    signed.signature.write_text("\n".join(lines[:2] + lines[-1:]) + "\n")


def flip_the_signature(signed: Signed) -> None:
    lines = signed.signature.read_text().splitlines()
    place = lines[-2]
    lines[-2] = place[:8] + ("A" if place[8] != "A" else "B") + place[9:]
    signed.signature.write_text("\n".join(lines) + "\n")


TAMPERING: list[tuple[str, Callable[[Signed], object], str]] = [
    ("hash in the lock", other_hash, "The lock is not what was signed"),
    ("a package less", lambda s: edit(s.lock, s.lock.read_bytes().splitlines()[-1], b""), "is not what was signed"),
    ("one more line end", lambda s: s.lock.write_bytes(s.lock.read_bytes() + b"\n"), "is not what was signed"),
    ("signature of another lock", signature_of_another_lock, "is not what was signed"),
    ("signature flipped", flip_the_signature, "is not what was signed"),
    ("signature cut", cut, "The signature is damaged"),
    ("signature empty", lambda s: s.signature.write_bytes(b""), "not one that ssh-keygen made"),
    ("signature gone", lambda s: s.signature.unlink(), "The lock is not signed"),
    ("signed with another key", another_key, "which no allowed signer has"),
    ("signed for git", lambda s: s.sign_as("git"), "not of the namespace torchlocks-lock"),
    ("allowed signers replaced", other_signers, "which no allowed signer has"),
    ("allowed signers emptied", lambda s: s.allowed.write_text("# nobody\n"), "names nobody"),
    ("allowed signers garbled", lambda s: s.allowed.write_text(f"{ME} ssh-ed25519 AAAA\n"), "which no allowed signer"),
    ("allowed signers open to all", lambda s: s.allowed.chmod(0o666), "can change who may sign"),
    ("key out of date", allow('valid-before="20200101"'), "the key's time is over"),
    ("key of the future", allow('valid-after="29990101"'), "the key's time has not begun"),
    ("key for git only", allow('namespaces="git"'), "may not sign for the namespace"),
]


@pytest.mark.parametrize(("tamper", "said"), [pytest.param(how, said, id=name) for name, how, said in TAMPERING])
def test_tampering_is_caught(signed: Signed, tamper: Callable[[Signed], object], said: str) -> None:
    open_signed_lock(str(signed.lock), signed.allowed)
    tamper(signed)
    with pytest.raises(SignatureError, match=re.escape(said)):
        open_signed_lock(str(signed.lock), signed.allowed)


@pytest.mark.parametrize("tamper", [other_hash, another_key, other_signers])
def test_nothing_is_installed_from_what_was_tampered_with(signed: Signed, tamper: Callable[[Signed], None]) -> None:
    tamper(signed)
    run = signed.install()
    assert run.returncode == 34, run.stderr
    assert not signed.prefix.exists()
    assert f"signed by {ME}" not in run.stderr


@pytest.mark.parametrize(
    ("lines", "who"),
    [
        (
            'git@example.org namespaces="git" {key}\nlocks@example.org namespaces="torchlocks-lock" {key}',
            "locks@example.org",
        ),
        ('"Ada Lovelace" {key}', "Ada Lovelace"),
    ],
    ids=["one key for two purposes", "a name of two words"],
)
def test_the_line_that_lets_a_key_sign_is_found(signed: Signed, lines: str, who: str) -> None:
    signed.allowed.write_text(lines.format(key=signed.public) + "\n")
    assert open_signed_lock(str(signed.lock), signed.allowed)[1].identity == who


def test_a_signer_who_is_allowed_but_not_the_one_named(signed: Signed) -> None:
    run = signed.install("--signer", "you@example.org")
    assert (run.returncode, "may not sign locks as you@example.org" in run.stderr) == (34, True), run.stderr


def test_no_file_of_allowed_signers_is_no_permission(signed: Signed) -> None:
    signed.allowed.unlink()
    assert signed.install().returncode == 14
    assert torchlocks("install", signed.lock, signed.prefix, "--signer", ME).returncode == 2
    assert not signed.prefix.exists()


def test_without_ssh_keygen_nothing_is_taken_for_verified(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(signed.lock.parent))
    run = signed.install()
    assert (run.returncode, "ssh-keygen" in run.stderr) == (34, True), run.stderr


def test_the_pixi_lock_beside_a_signed_lock_is_not_believed(template: Path, tmp_path: Path) -> None:
    """A conda-lock.yml is completed from pixi.lock otherwise, which its signature does not cover."""
    folder = tmp_path / "cpu"
    shutil.copytree(Path(__file__).parents[2] / "data" / "locks" / "cpu", folder)
    lock, allowed = folder / "conda-lock.yml", template / "allowed_signers"
    assert torchlocks("sign", lock, "--key", template / "key").returncode == 0
    (folder / "pixi.lock").write_text("garbage")
    assert torchlocks("verify-signature", lock, "--allowed-signers", allowed).returncode == 0


def test_a_folder_is_signed_whole_and_check_knows_signatures(template: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    for name in ("matrix.yml", "environment-cpu.yml", "environment-gpu.yml"):
        shutil.copy(root / name, tmp_path / name)
    shutil.copytree(root / "locks" / "cpu", tmp_path / "locks" / "cpu")
    folder = tmp_path / "locks" / "cpu"
    names = sorted(path.name for path in folder.iterdir())
    assert torchlocks("sign", folder, "--key", template / "key").returncode == 0
    assert sorted(path.name for path in folder.glob("*.sig")) == [f"{name}.sig" for name in names]
    run = torchlocks("verify-signature", folder, "--allowed-signers", template / "allowed_signers")
    assert (run.returncode, run.stdout.count(f"signed by {ME}")) == (0, len(names)), run.stderr

    layout = Layout(tmp_path)

    def findings() -> list[tuple[str, str]]:
        report = check_repository(layout, load_matrix(layout.matrix), ["cpu"], lambda target, rendered: "any")
        found = [each for each in report.findings if each.rule != "stale"]
        return [(each.rule, Path(each.path).name) for each in found]

    assert findings() == []
    with (folder / "conda-win-64.lock").open("a") as stream:
        stream.write("\n")
    assert findings() == [("signature-stale", "conda-win-64.lock.sig")]


def test_only_locks_are_signed(template: Path, tmp_path: Path) -> None:
    (tmp_path / "environment.yml").write_text("dependencies: [python]\n")
    assert torchlocks("sign", tmp_path / "environment.yml", "--key", template / "key").returncode == 13
    assert torchlocks("sign", tmp_path / "nothing.lock", "--key", template / "key").returncode == 14
    assert torchlocks("sign", tmp_path, "--key", template / "key").returncode == 14
    assert torchlocks("sign", template / "tiny.lock", "--key", tmp_path / "nobody").returncode == 14
    assert not list(tmp_path.glob("*.sig"))


def test_a_signature_that_cannot_be_written_is_an_error(signed: Signed) -> None:
    signed.signature.unlink()
    signed.signature.mkdir()
    run = torchlocks("sign", signed.lock, "--key", signed.key)
    assert (run.returncode, "The signature cannot be written" in run.stderr) == (34, True), run.stderr


def test_a_lock_and_its_signature_from_a_url(template: Path, tmp_path: Path) -> None:
    allowed = template / "allowed_signers"
    with faulty_server(template) as server:
        url = f"{server.url}/tiny.lock"
        run = torchlocks("verify-signature", url, "--allowed-signers", allowed)
        assert (run.returncode, f"{url}: signed by {ME}" in run.stdout) == (0, True), run.stderr
        run = torchlocks("verify-signature", f"{server.url}/allowed_signers", "--allowed-signers", allowed)
        assert (run.returncode, "signature cannot be fetched" in run.stderr) == (31, True), run.stderr
    run = torchlocks("verify-signature", (template / "tiny.lock").as_uri(), "--allowed-signers", allowed)
    assert run.returncode == 0, run.stderr

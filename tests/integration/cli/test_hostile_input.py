"""Ordinary mistakes and hostile texts at the command line: an error with a code of its own, and no secrets printed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from support import small_disk
from torchlocks.cli import main

SECRET = "s3cr3t"


class Ran(NamedTuple):
    code: int
    said: str


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, in this process and the folder `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHLOCKS_ROOT", "")
    monkeypatch.setenv("TORCHLOCKS_CACHE", str(tmp_path / "pkgs"))

    def call(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["torchlocks", *arguments])
        code = main._run()
        captured = capsys.readouterr()
        assert code != main.INTERNAL_ERROR, captured.err
        return Ran(code, captured.out + captured.err)

    return call


def lock_text(channel: str) -> str:
    return yaml.safe_dump(
        {
            "version": "1",
            "metadata": {
                "content_hash": {},
                "channels": [{"url": channel, "used_env_vars": []}],
                "platforms": ["linux-64"],
                "sources": [],
                "custom_metadata": {"base": f"{channel}/conda-lock.yml", "base sha256": "0" * 64, "environment": "e"},
            },
            "package": [
                {
                    "name": "pytorch",
                    "version": "2.5",
                    "manager": "conda",
                    "platform": "linux-64",
                    "dependencies": {},
                    "url": f"{channel}/linux-64/pytorch-2.5-0.conda",
                    "hash": {"sha256": "0" * 64},
                    "category": "main",
                    "optional": False,
                }
            ],
        },
        sort_keys=False,
    )


@pytest.mark.parametrize(
    ("prefix", "code"), [("/", 50), ("x" * 256, 50), ("x/" * 2100 + "y", 50), ("loop/x", 50), ("x" * 250, 50)]
)
def test_a_prefix_that_can_be_none_is_no_bug(tmp_path: Path, run: Run, prefix: str, code: int) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "conda.lock").write_text(
        "@EXPLICIT\nhttps://127.0.0.1:1/c/linux-64/x-1-0.conda#sha256:" + "0" * 64 + "\n"
    )
    assert run("install", "conda.lock", prefix, "--offline").code == code


@pytest.mark.parametrize("name", ["x" * 256, "x/" * 2100 + "y", "loop", "fifo", "."])
@pytest.mark.parametrize("verb", ["install", "check", "export", "sbom", "sign", "diff"])
def test_a_path_that_can_be_no_lock_is_no_bug(tmp_path: Path, run: Run, verb: str, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    others = {"install": ("p",), "diff": (name,)}.get(verb, ())
    assert run(verb, name, *others).code != 0


def test_a_matrix_that_is_not_utf_8_is_no_bug(tmp_path: Path, run: Run) -> None:
    (tmp_path / "matrix.yml").write_bytes(b"\xff\xfe")
    (tmp_path / "environment-cpu.yml").write_text("")
    for arguments in (("matrix",), ("check",)):
        run(*arguments)


def test_a_full_disk_has_its_own_code(tmp_path: Path, run: Run) -> None:
    lock = tmp_path / "conda-lock.yml"
    lock.write_text(lock_text("https://h.example/c"))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    with small_disk(tmp_path / "small", "64k") as disk:
        (disk / "conda-lock.yml").write_text(lock.read_text())
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        assert run("sign", str(disk / "conda-lock.yml"), "--key", str(tmp_path / "key")).code == 33
        for verb in ("sbom", "export"):
            form = ("--format", "explicit") if verb == "export" else ()
            said = run(verb, str(lock), "--platform", "linux-64", *form, "-o", str(disk / "made"))
            assert said.code == 33, said.said


@pytest.mark.parametrize(
    "channel",
    [
        f"https://user:{SECRET}@127.0.0.1:1/c",
        f"https://user:x@{SECRET}@127.0.0.1:1/c",
        f"https://127.0.0.1:1/t/{SECRET}/c",
        f"https://127.0.0.1:1/prefix/t/{SECRET}/c",
    ],
)
def test_no_secret_of_a_lock_is_printed_or_written(tmp_path: Path, run: Run, channel: str) -> None:
    (tmp_path / "conda-lock.yml").write_text(lock_text(channel))
    (tmp_path / "odd.lock").write_text(f"{channel}/x\n@EXPLICIT\n")
    lock, url = "conda-lock.yml", f"{channel}/conda-lock.yml"
    (tmp_path / "signers").write_text("me ssh-ed25519 AAAA\n")
    out = tmp_path / "out"
    out.mkdir()
    for arguments in (
        ("check", lock),
        ("check", lock, "--format", "json"),
        ("check", lock, "--format", "github"),
        ("check", lock, "--fetch-base"),
        ("check", "odd.lock"),
        ("diff", lock, lock),
        ("install", lock, "p", "--platform", "linux-64"),
        ("install", url, "p", "--verify-signature", "signers"),
        ("verify-signature", url, "--allowed-signers", "signers"),
        ("install", "odd.lock", "p"),
        ("sbom", lock, "--platform", "linux-64", "-o", "out/cyclonedx.json"),
        ("sbom", lock, "--platform", "linux-64", "--format", "spdx", "-o", "out/spdx.json"),
        ("licences", lock, "--platform", "linux-64"),
        ("extend", "--base", url),
    ):
        done = run(*arguments)
        assert SECRET not in done.said, arguments
    for file in out.rglob("*"):
        assert SECRET not in file.read_text(), file

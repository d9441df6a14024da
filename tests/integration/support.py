"""What integration tests share: the command, channel records, small disks, keys."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from preloaded import run_torchlocks

SNAPSHOT = os.environ.get("TORCHLOCKS_SNAPSHOT")


needs_snapshot = pytest.mark.skipif(not SNAPSHOT, reason="needs real channel records: make test SNAPSHOT=DIR")


def torchlocks(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a checkout, as a user would."""
    return run_torchlocks(arguments, cwd=root, env={**os.environ, **environment})


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of `size` in memory; needs root and the right to mount."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_key(path: Path) -> str:
    """An SSH key at `path`; returns its public half, as a line of allowed signers has it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text().strip()

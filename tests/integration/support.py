"""What integration tests share: the command, channel records, small disks, keys."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from preloaded import run_torchlocks
from torchlocks.core.files import hash_file
from torchlocks.core.layout import Layout
from torchlocks.matrix.load import load_matrix
from torchlocks.publish.metapackages import update_generated

ROOT = Path(__file__).resolve().parents[2]


SNAPSHOT = os.environ.get("TORCHLOCKS_SNAPSHOT")


needs_snapshot = pytest.mark.skipif(not SNAPSHOT, reason="needs real channel records: make test SNAPSHOT=DIR")


def torchlocks(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a checkout, as a user would."""
    return run_torchlocks(arguments, cwd=root, env={**os.environ, **environment})


def few_environments(root: Path, *rows: str) -> Layout:
    """A checkout with these rows of the matrix alone, without variants: templates, locks and recipes.

    What reads every lock takes a moment in it, and what it finds does not depend on how many there are.
    """
    root.mkdir(exist_ok=True)
    for name in ("matrix.yml", "environment-cpu.yml", "environment-gpu.yml", "LICENSE"):
        shutil.copy(ROOT / name, root)
    for row in rows:
        shutil.copytree(ROOT / "locks" / row, root / "locks" / row)
    shutil.copytree(ROOT / "recipes", root / "recipes")
    return keep_environments(root, *rows)


def keep_environments(root: Path, *rows: str) -> Layout:
    """Remove all other rows and all variants from a checkout."""
    layout = Layout(root)
    document = yaml.safe_load(layout.matrix.read_text(encoding="utf-8"))
    document["environments"] = {row: {**document["environments"][row], "variants": {}} for row in rows}
    layout.matrix.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    for folder in layout.locks.iterdir():
        if folder.is_dir() and folder.name not in rows:
            shutil.rmtree(folder)
    update_generated(layout, load_matrix(layout.matrix))
    return layout


def borrow_bytecode(lender: Path, prefix: Path) -> None:
    """Give a new environment the bytecode of another one where both have the same source.

    Without it, Python compiles a thousand files of torch before it has imported it. Python takes bytecode only where
    size and time of the source are those that it was compiled from.
    """
    for theirs in lender.glob("lib/python3.*"):
        ours = prefix / "lib" / theirs.name
        for compiled in theirs.rglob("__pycache__/*.pyc"):
            folder = compiled.relative_to(theirs).parent
            source = folder.parent / f"{compiled.name.partition('.')[0]}.py"
            target = ours / folder / compiled.name
            if target.exists() or not (ours / source).is_file() or not filecmp.cmp(theirs / source, ours / source):
                continue
            # An installation of pip has times of its own. Where files are linked, they are equal already.
            if (ours / source).stat().st_mtime_ns != (theirs / source).stat().st_mtime_ns:
                shutil.copystat(theirs / source, ours / source)
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(compiled, target)


def digests(folder: Path) -> dict[str, str]:
    """The files below a folder, and the hashes of their bytes."""
    return {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


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

"""Records of installed packages in the way of each client: an environment of ours → the same as another made it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

CLIENTS = ("conda", "mamba", "micromamba", "conda-lock", "pixi", "install.py")
_MODULES = "lib/python3.11/"


def as_made_by(client: str, prefix: Path) -> None:
    """Rewrite `conda-meta` of an environment of torchlocks as `client` would have written it."""
    meta = prefix / "conda-meta"
    for name in ("torchlocks", "torchlocks-files"):
        (meta / name).unlink(missing_ok=True)
    if client == "pixi":
        (meta / "pixi").write_text('{"manifest_path": "/x/pixi.toml", "environment_name": "default"}')
        return
    if client == "install.py":
        return
    for path in meta.glob("*.json"):
        record = json.loads(path.read_text())
        entries = record["paths_data"]["paths"]
        if client in ("conda", "conda-lock"):
            _as_conda(prefix, record, entries)
        else:
            _as_micromamba(prefix, entries)
        path.write_text(json.dumps(record, indent=2))


def _as_conda(prefix: Path, record: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    """conda: links have the hash of their file, modules their path in the package, and `files` the real one."""
    for entry in entries:
        file = prefix / entry["_path"]
        if entry.get("path_type") == "softlink" and file.is_file():
            entry.pop("sha256_in_prefix", None)
            entry["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    if record.get("noarch") != "python":
        return
    for entry in entries:
        if entry["_path"].startswith(f"{_MODULES}site-packages/"):
            entry["_path"] = entry["_path"].removeprefix(_MODULES)
    compiled = [file.replace(".py", ".cpython-311.pyc") for file in record["files"] if file.endswith(".py")]
    record["files"] += [f"{file.rpartition('/')[0]}/__pycache__/{file.rpartition('/')[2]}" for file in compiled]


def _as_micromamba(prefix: Path, entries: list[dict[str, Any]]) -> None:
    """libmamba: no placeholder, the hash in the prefix for each file, and the size of the file in the package."""
    for entry in entries:
        file = prefix / entry["_path"]
        entry.pop("prefix_placeholder", None)
        entry.pop("file_mode", None)
        if entry.get("path_type") == "hardlink" and file.is_file():
            entry["sha256_in_prefix"] = hashlib.sha256(file.read_bytes()).hexdigest()

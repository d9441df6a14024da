"""Tiny channels of repodata, written by hand: a few packages that show one behaviour."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def record(
    name: str,
    version: str = "1.0",
    build: str = "0",
    *,
    depends: tuple[str, ...] = (),
    constrains: tuple[str, ...] = (),
    day: str = "2026-01-01",
) -> dict[str, object]:
    """The record of a package that exists on paper only; its hashes are those of its name."""
    from datetime import datetime, timezone

    label = f"{name}-{version}-{build}"
    number = build.rsplit("_", 1)[-1]
    return {
        "name": name,
        "version": version,
        "build": build,
        "build_number": int(number) if number.isdigit() else 0,
        "depends": list(depends),
        "constrains": list(constrains),
        "md5": hashlib.md5(label.encode()).hexdigest(),
        "sha256": hashlib.sha256(label.encode()).hexdigest(),
        "size": 1000,
        "license": "BSD-3-Clause",
        "timestamp": int(datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=timezone.utc).timestamp() * 1000),
    }


def write_channel(folder: Path, *records: dict[str, object], subdir: str = "linux-64") -> Path:
    """Write `<folder>/<subdir>/repodata.json` with the records, and an empty noarch; returns the folder."""
    for name, packages in ((subdir, records), ("noarch", ())):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        files = {f"{r['name']}-{r['version']}-{r['build']}.conda": {**r, "subdir": name} for r in packages}
        document = {"info": {"subdir": name}, "packages": {}, "packages.conda": files, "repodata_version": 1}
        (place / "repodata.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def torch_records() -> tuple[dict[str, object], ...]:
    """CPU and CUDA builds of torch, as conda-forge makes them: one name, told apart by build string."""
    return (
        record("python", "3.11.5", "h1_0"),
        record("python", "3.11.9", "h1_0", day="2026-03-01"),
        record("numpy", "2.0.0", "py311_0", depends=("python 3.11.*",)),
        record("numpy", "2.1.0", "py311_0", depends=("python 3.11.*",), day="2026-02-01"),
        record("pytorch", "2.5.0", "cpu_py311_0", depends=("python 3.11.*", "libtorch 2.5.0 cpu_0")),
        record(
            "pytorch", "2.5.0", "cuda118_py311_200", depends=("python 3.11.*", "libtorch 2.5.0 cuda118_200", "__cuda")
        ),
        record("libtorch", "2.5.0", "cpu_0"),
        record("libtorch", "2.5.0", "cuda118_200", depends=("cuda-version >=11.8,<12",)),
        record("cuda-version", "11.8", "h1_3", constrains=("__cuda >=11",)),
        record("pip", "26.0", "py311_0", depends=("python",)),
        record("pytest", "9.0", "py311_0", depends=("python",)),
    )

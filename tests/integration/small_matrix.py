"""A checkout of a few tiny environments, and a snapshot of a channel that has them: solving one takes no time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

_TEMPLATE = """\
name: {{ env }}
channels: [{{ channels | join(", ") }}]
platforms: [{{ platform }}]
dependencies:
  - python {{ python }}.*
  - pytorch {{ pytorch }}.* {{ build }}
"""


@dataclass(frozen=True)
class SmallMatrix:
    """The checkout, and the snapshot to lock it against."""

    root: Path
    snapshot: Path

    @property
    def locks(self) -> dict[str, str]:
        """The lockfiles there are, and the hashes of their bytes."""
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((self.root / "locks").rglob("*"))
            if path.is_file()
        }


def small_matrix(folder: Path, environments: int) -> SmallMatrix:
    """Write a matrix of `environments` rows, e00 …, on linux-64, and the snapshot that they solve from."""
    root, snapshot = folder / "checkout", folder / "snapshot"
    root.mkdir(parents=True)
    (root / "environment-cpu.yml").write_text(_TEMPLATE, encoding="utf-8")
    cell = {"python": "3.11", "pytorch": "2.5", "build": "cpu*"}
    row = {
        "accelerator": "cpu",
        "template": "environment-cpu.yml",
        "channels": ["conda-forge"],
        "platforms": {"linux-64": cell},
    }
    matrix = {
        "platforms": {"linux-64": {"virtual_packages": {"__unix": "0", "__linux": "4.18", "__glibc": "2.28"}}},
        "drivers": {},
        "environments": {f"e{number:02}": row for number in range(environments)},
    }
    (root / "matrix.yml").write_text(json.dumps(matrix, indent=1), encoding="utf-8")
    records = (
        _record("python", "3.11.9", "h1_0"),
        _record("pytorch", "2.5.0", "cpu_py311_0", "python 3.11.*", "numpy >=2"),
        _record("pytorch", "2.5.1", "cpu_py311_0", "python 3.11.*", "numpy >=2"),
        _record("numpy", "2.1.0", "py311_0", "python 3.11.*"),
    )
    for subdir, packages in (("linux-64", records), ("noarch", ())):
        place = snapshot / "conda-forge" / subdir
        place.mkdir(parents=True)
        files = {f"{each['name']}-{each['version']}-{each['build']}.conda": each for each in packages}
        document = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": files, "repodata_version": 1}
        (place / "repodata.json").write_text(json.dumps(document), encoding="utf-8")
    return SmallMatrix(root, snapshot)


def _record(name: str, version: str, build: str, *depends: str) -> dict[str, object]:
    label = f"{name}-{version}-{build}".encode()
    return {
        "name": name,
        "version": version,
        "build": build,
        "build_number": 0,
        "depends": list(depends),
        "constrains": [],
        "md5": hashlib.md5(label).hexdigest(),
        "sha256": hashlib.sha256(label).hexdigest(),
        "size": 1000,
        "subdir": "linux-64",
        "timestamp": 1_767_268_800_000,
    }

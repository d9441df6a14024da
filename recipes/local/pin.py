"""Pin the wheels of a CUDA row anew: `.venv/bin/python recipes/local/pin.py cu130`, or no name for all rows.

From `torch-<row>.in` uv resolves `torch-<row>.txt`: the wheels of CPython 3.10 to 3.14 on Linux, with their hashes.
What `wheels.txt` pins holds here too, and is not repeated. `wheel-sizes.json` gets each wheel's size from the index and
the size of its contents from the wheel's own table of contents, of which only that part is fetched.
Needs Python 3.11 and the network; the index is the one that uv is set up to use.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import tomllib
from packaging.utils import parse_wheel_filename

HERE = Path(__file__).resolve().parent
SIZES = HERE / "wheel-sizes.json"
INTERPRETERS = {"py2", "py3", "cp310", "cp311", "cp312", "cp313", "cp314"}
MACHINES = ("x86_64", "aarch64")


class RemoteFile(io.RawIOBase):
    """A file behind a URL, of which only what is read is fetched."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self.size, self.position = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        end = min(self.position + len(buffer), self.size)
        if end <= self.position:
            return 0
        request = urllib.request.Request(self.url, headers={"Range": f"bytes={self.position}-{end - 1}"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            if answer.status != 206:
                raise OSError("the index does not serve parts of files")
            data = answer.read()
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def resolve(row: str) -> list[dict[str, Any]]:
    """The packages of a row, as uv writes them into a pylock.toml (PEP 751)."""
    pinned = [line.removesuffix(" \\") for line in (HERE / "wheels.txt").read_text().splitlines() if "==" in line]
    # torch of other systems than Linux is no constraint for what is made for this row's.
    common = {line.partition("==")[0]: line for line in pinned if not line.startswith("torch==")}
    command = [f"{sysconfig.get_path('scripts')}/uv", "pip", "compile", "-q", "--universal", "--no-header"]
    # The oldest Python that the row's torch has a wheel for.
    command += ["--python-version", "3.11" if row == "cu132" else "3.10"]
    for name in sorted(common):
        command += ["--no-emit-package", name]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(common.values()) + "\n", encoding="utf-8")
        command += ["-c", str(constraints)]
        lock = Path(folder) / "pylock.toml"
        subprocess.run([*command, f"torch-{row}.in", "--output-file", str(lock)], cwd=HERE, check=True)
        return list(tomllib.loads(lock.read_text())["packages"])


def wheels_of(package: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The wheels to pin, by file name: of several builds of one wheel only the newest."""
    newest: dict[Any, tuple[Any, str, dict[str, Any]]] = {}
    for wheel in package.get("wheels", []):
        name = unquote(wheel["url"].rpartition("/")[2])
        _, _, build, tags = parse_wheel_filename(name)
        runs = any(
            tag.interpreter in INTERPRETERS
            and not tag.abi.endswith("t")
            and (tag.platform == "any" or ("manylinux" in tag.platform and tag.platform.endswith(MACHINES)))
            for tag in tags
        )
        if runs and (tags not in newest or newest[tags][0] < build):
            newest[tags] = (build, name, wheel)
    return {name: wheel for _, name, wheel in newest.values()}


def unpacked_size(wheel: dict[str, Any]) -> int:
    """Bytes of all files in a wheel."""
    stream = io.BufferedReader(RemoteFile(wheel["url"], wheel["size"]), 1 << 16)
    with zipfile.ZipFile(stream) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def pin(row: str, sizes: dict[str, dict[str, Any]]) -> None:
    """Write `torch-<row>.txt`, and add its wheels to `sizes`."""
    lines = [f"# Written by recipes/local/pin.py from torch-{row}.in."]
    for package in resolve(row):
        wheels = wheels_of(package)
        if not wheels:
            raise SystemExit(f"{row}: no wheel of {package['name']} {package['version']} for Linux")
        marker = f" ; {package['marker']}" if "marker" in package else ""
        block = [f"{package['name']}=={package['version']}{marker}"]
        block += [f"    --hash=sha256:{digest}" for digest in sorted(w["hashes"]["sha256"] for w in wheels.values())]
        lines.append(" \\\n".join(block))
        new = {name: wheel for name, wheel in wheels.items() if name not in sizes}
        with ThreadPoolExecutor(8) as pool:
            for (name, wheel), unpacked in zip(new.items(), pool.map(unpacked_size, new.values()), strict=True):
                sizes[name] = {"sha256": wheel["hashes"]["sha256"], "size": wheel["size"], "unpacked": unpacked}
    (HERE / f"torch-{row}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    rows = sorted(path.stem.removeprefix("torch-") for path in HERE.glob("torch-cu*.in"))
    sizes: dict[str, dict[str, Any]] = json.loads(SIZES.read_text(encoding="utf-8")) if SIZES.is_file() else {}
    for row in sys.argv[1:] or rows:
        pin(row, sizes)
    pinned = "".join(path.read_text(encoding="utf-8") for path in HERE.glob("torch-cu*.txt"))
    kept = {name: size for name, size in sorted(sizes.items()) if size["sha256"] in pinned}
    SIZES.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

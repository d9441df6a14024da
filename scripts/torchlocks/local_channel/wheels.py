"""Download pinned wheels with pip.

A pin is a line of a requirements file with an exact version and hashes, as in pip's hash-checking mode. Files with
another hash are never used, whether from an index, a folder, or an earlier run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from torchlocks.core.disk import reports_disk_full
from torchlocks.core.errors import DiskFullError, FetchError, WheelError
from torchlocks.core.files import hash_file
from torchlocks.core.progress import Progress, Task
from torchlocks.core.quantities import shortened
from torchlocks.local_channel.pins import Pin
from torchlocks.local_channel.wheel_layout import wheel_layout

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU wheels, as https://pytorch.org/get-started/locally names it."""

_NO_CANDIDATE = re.compile(r"Could not find a version that satisfies the requirement (\S+).*\(from versions: (.*)\)")
_COPIED = re.compile(r"Processing (.+\.whl)$")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel on disk with a verified hash.

    `requires_python` is the version specifier of its metadata (`>=3.10`), or `*`; `requires` are the requirements whose
    markers apply here, without extras; `license` is an SPDX expression, `summary` one line. `glibc` is the oldest glibc
    of its tags (`2.28`), or None. `kind` is what it is compatible with: `pure` everything, `library` one platform and
    any Python, `compiled` one platform and one Python. `newest` is the time of the newest file inside, in UTC.
    `scripts` are the names of the programs that pip writes for it; None if installing it is more than copying files.
    """

    pin: Pin
    path: Path
    sha256: str
    requires_python: str
    requires: tuple[Requirement, ...]
    license: str
    summary: str
    glibc: str | None
    kind: Literal["pure", "library", "compiled"]
    newest: datetime
    scripts: frozenset[str] | None = None


def fetch_wheels(
    pins: Iterable[Pin], folder: Path, progress: Progress, *, large: Collection[str] = (), offline: bool = False
) -> dict[str, Wheel]:
    """Return the wheel of every pin, from `folder` if its hash is right, else downloaded by pip into `folder`.

    A wheel in the folder with another hash is removed and downloaded again. The `large` ones, by name, are downloaded
    one by one, so that an interrupted run loses at most one of them. CPU builds (`+cpu`) that pip does not find where
    it is set up to look come from PyTorch's own index. With `offline`, nothing is downloaded. Raises WheelError if pip
    finds no wheel with a pinned hash, FetchError if it reaches no index or may not, DiskFullError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pins = tuple(pins)
    wheels = {pin.name: wheel for pin in pins if (wheel := _stored_wheel(pin, folder, progress))}
    missing = [pin for pin in pins if pin.name not in wheels]
    if missing and offline:
        raise FetchError(
            f"Offline, and {len(missing)} wheels for the local channel are not here: "
            f"{shortened(sorted(f'{pin.name} {pin.version}' for pin in missing))}.",
            where=str(folder),
            fix="unpack a bundle of this environment (make bundle FILE=…), or build it once with a network.",
        )
    if missing:
        # torch first: without it, the others are useless.
        missing.sort(key=lambda pin: (pin.name != "torch", pin.name))
        progress.say(f"Fetching {len(missing)} wheels with pip: {', '.join(pin.name for pin in missing)}")
        alone = [pin for pin in missing if pin.name in large or _is_cpu_build(pin)]
        rest = [pin for pin in missing if pin not in alone]
        batches = [[pin] for pin in alone] + ([rest] if rest else [])
        with progress.task("Fetching wheels", unit="bytes") as task:
            done = 0
            for batch in batches:
                with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
                    done = _download(batch, Path(temporary), bool(large), task, done, progress)
                    for path in sorted(Path(temporary).glob("*.whl")):
                        path.replace(folder / path.name)
        for pin in missing:
            wheel = _stored_wheel(pin, folder, progress)
            if wheel is None:
                raise WheelError(f"pip fetched no usable wheel of {pin.name} {pin.version}.", where=pin.where)
            wheels[pin.name] = wheel
    return wheels


def _stored_wheel(pin: Pin, folder: Path, progress: Progress) -> Wheel | None:
    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        if name != pin.name or version != pin.version or not _runs_here(tags):
            continue
        sha256 = hash_file(path)
        if sha256 in pin.hashes:
            return _open_wheel(pin, path, sha256, tags)
        progress.warn(f"{path} is damaged or not the pinned wheel (its hash is {sha256}): fetching it again.")
        try:
            path.unlink()
        except OSError as error:
            raise WheelError(
                f"{path.name} is not the pinned wheel, and cannot be removed: {error.strerror}.",
                where=str(path),
                fix="remove the file and run the command again.",
            ) from error
    return None


def _runs_here(tags: Iterable[Tag]) -> bool:
    return not _supported_tags().isdisjoint(tags)


@cache
def _supported_tags() -> frozenset[Tag]:
    return frozenset(sys_tags())


def glibc_floor(tags: Iterable[Tag]) -> str | None:
    """Return the oldest glibc that a wheel with these tags runs on, as `MAJOR.MINOR`; None without such a tag.

    A wheel with several manylinux tags runs where any of them applies (PEP 600).
    """
    aliases = {"manylinux1": "manylinux_2_5", "manylinux2010": "manylinux_2_12", "manylinux2014": "manylinux_2_17"}
    floors = []
    for tag in tags:
        family, _, architecture = tag.platform.partition("_")
        platform = f"{aliases[family]}_{architecture}" if family in aliases else tag.platform
        if match := re.match(r"manylinux_(\d+)_(\d+)_", platform):
            floors.append((int(match[1]), int(match[2])))
    return "{}.{}".format(*min(floors)) if floors else None


def _open_wheel(pin: Pin, path: Path, sha256: str, tags: Iterable[Tag]) -> Wheel:
    from packaging.metadata import parse_email

    with zipfile.ZipFile(path) as archive:
        newest = max(entry.date_time for entry in archive.infolist())
        metadata = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        raw, _ = parse_email(archive.read(metadata))
        layout = wheel_layout(archive)
    requires = re.sub(r"\s", "", raw.get("requires_python") or "*")
    return Wheel(
        pin=pin,
        path=path,
        sha256=sha256,
        requires_python=requires,
        requires=tuple(
            requirement
            for requirement in map(Requirement, raw.get("requires_dist", []))
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ),
        license=raw.get("license_expression") or _spdx(raw.get("license") or ""),
        summary=raw.get("summary") or pin.name,
        glibc=glibc_floor(tags),
        kind=_kind(tags),
        newest=datetime(*newest, tzinfo=timezone.utc),
        scripts=frozenset(layout.scripts) if layout else None,
    )


def _kind(tags: Iterable[Tag]) -> Literal["pure", "library", "compiled"]:
    tags = tuple(tags)
    if all(tag.abi == "none" and tag.interpreter.startswith("py") for tag in tags):
        return "pure" if all(tag.platform == "any" for tag in tags) else "library"
    return "compiled"


def _spdx(text: str) -> str:
    """Return an SPDX expression for the `License` field of a wheel without `License-Expression` (PEP 639)."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    named = {"NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary", "Apache 2.0": "Apache-2.0"}
    if text in named:
        return named[text]
    try:
        return canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        # `BSD` is no licence of SPDX's list; a whole text of a licence is no name at all.
        return f"LicenseRef-{text}" if re.fullmatch(r"[A-Za-z0-9.-]+", text) else "LicenseRef-see-the-wheel"


def _is_cpu_build(pin: Pin) -> bool:
    return pin.version.local == "cpu"


def _download(pins: list[Pin], target: Path, uncached: bool, task: Task, before: int, progress: Progress) -> int:
    """Download wheels with pip as it is set up, and CPU builds that it does not find from PyTorch's own index.

    PyPI has no CPU build of torch for Linux on x86-64. Nothing but pinned wheels is taken from the other index: the
    hashes decide. Arguments, result and errors are those of `_pip_download`.
    """
    try:
        return _pip_download(pins, target, uncached, task, before)
    except _NoCpuBuildError as error:
        if os.environ.get("PIP_NO_INDEX", "").lower() not in ("", "0", "false", "no", "off"):
            raise
        names = ", ".join(f"{pin.name} {pin.version}" for pin in pins)
        progress.say(f"pip does not find {names} on its configured indexes: trying PyTorch's own index")
        try:
            return _pip_download(pins, target, uncached, task, before, index=TORCH_CPU_INDEX)
        except (_NoCpuBuildError, FetchError) as second:
            error.details = second.details
            raise error from second


def _pip_download(
    pins: list[Pin], target: Path, uncached: bool, task: Task, before: int, index: str | None = None
) -> int:
    """Download wheels with pip into `target`; return the bytes downloaded so far, with the `before` of earlier calls.

    `uncached` keeps gigabytes out of pip's cache and of the system's temporary folder. `index` is looked at instead of
    what pip is set up to use.
    """
    requirements = target / "requirements.txt"
    requirements.write_text("".join(f"{pin.requirement}\n" for pin in pins), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "raw", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command += ["--no-cache-dir"] if uncached else []
    command += ["--index-url", index, "--retries", "1"] if index else []
    command += ["--dest", str(target), "--requirement", str(requirements)]
    here = 0
    output: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | ({"TMPDIR": str(target)} if uncached else {}),
    ) as pip:
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                if match := _PROGRESS.search(line):
                    done, size = int(match[1]), int(match[2])
                    task.total(before + size)
                    task.advance(done - here)
                    here = done
                    if done == size:
                        before, here = before + size, 0
                else:
                    output.append(line)
                    # A wheel from a folder is copied, without progress lines.
                    if (match := _COPIED.match(line)) and (file := Path(match[1])).is_file():
                        before += file.stat().st_size
                        task.total(before)
                        task.advance(file.stat().st_size)
        except BaseException:
            pip.kill()  # Ctrl-C may have reached this process alone
            raise
    if pip.returncode != 0:
        raise _pip_error("".join(output), pins)
    return before


def _pip_error(output: str, pins: list[Pin]) -> DiskFullError | FetchError | WheelError:
    """Return the error for pip's output, which is matched against the texts of pip 25 and 26."""
    tail = "\n".join(line for line in output.splitlines() if not line.startswith("WARNING: Location"))[-3000:]
    by_requirement: Mapping[str, Pin] = {f"{pin.name}=={pin.version}": pin for pin in pins}
    if reports_disk_full(output):
        return DiskFullError("The disk is full: pip could not store a wheel.", fix="free some space, then run again.")
    if re.search(r"Retrying \(|ConnectionError|NewConnectionError|ReadTimeout|HTTPError", output):
        return FetchError(
            "pip cannot reach the package index that it is set up to use.",
            fix="check the network and pip's own settings (`pip config list`), then run again.",
            details=tail,
        )
    if "DO NOT MATCH THE HASHES" in output:
        return WheelError(
            "pip found a wheel of the right name and version whose bytes are not the pinned ones.",
            where=", ".join(sorted({pin.where.rsplit(":", 1)[0] for pin in pins})),
            fix="find out who changed the file; if it is right, add its hash to the pin file.",
            details=tail,
        )
    if match := _NO_CANDIDATE.search(output):
        pin = by_requirement.get(match[1].lower())
        if pin is not None and pin.name == "torch" and pin.version.local == "cpu":
            return no_cpu_torch(pin, [v.strip() for v in match[2].split(",")])
        return WheelError(
            f"pip finds no wheel of {match[1]} for Python {_python_version()} on this platform.",
            where=pin.where if pin else None,
            fix="use a Python for which the package publishes wheels, or pin another version.",
            details=tail,
        )
    return WheelError("pip could not fetch the wheels.", details=tail)


class _NoCpuBuildError(WheelError):
    """No CPU build of torch is found, while the index may have CUDA builds."""


def no_cpu_torch(pin: Pin, found: Iterable[str]) -> WheelError:
    """Return the error for a torch without a CPU build. `found` are the versions that pip listed."""
    plain = pin.version.public in set(found)
    what = (
        f"pip only finds a CUDA build of torch {pin.version.public} for Python {_python_version()}, not a CPU build."
        if plain
        else f"pip finds no CPU build of torch {pin.version.public} for Python {_python_version()}."
    )
    return _NoCpuBuildError(
        what,
        where=pin.where,
        fix=f"PyPI has none for Linux: allow access to {TORCH_CPU_INDEX}, which is tried by itself,"
        f"\nor name where the wheel torch {pin.version} is: PIP_EXTRA_INDEX_URL=URL of a mirror, PIP_FIND_LINKS=FOLDER,"
        "\nor use another Python, for which it is there: make PYTHON=python3.11",
    )


def no_cuda_torch(cuda: str, pins: Path) -> WheelError:
    """Return the error for a CUDA version whose torch, or a library of it, has no pin in `pins` for this Python."""
    return WheelError(
        f"PyPI has no torch for CUDA {cuda} with Python {_python_version()} on this platform, or none that is pinned.",
        where=str(pins),
        fix="use another Python (make PYTHON=python3.11), or another CUDA version.",
    )


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"

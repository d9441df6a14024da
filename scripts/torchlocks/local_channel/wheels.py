"""Pinned wheels: read the pins, say which of them this Python needs, and fetch them with pip, by name.

A pin is a line of a requirements file with an exact version and hashes, as pip's hash-checking mode has them. Nothing
that has another hash is ever used, wherever it came from: an index, a folder, or an earlier run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Literal

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from torchlocks.core.disk import reports_disk_full
from torchlocks.core.errors import DiskFullError, FetchError, WheelError
from torchlocks.core.files import hash_file
from torchlocks.core.progress import Progress, Task

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU wheels, as https://pytorch.org/get-started/locally names it."""

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_COMMENT = re.compile(r"(^|\s)#.*")
_NO_CANDIDATE = re.compile(r"Could not find a version that satisfies the requirement (\S+).*\(from versions: (.*)\)")
_COPIED = re.compile(r"Processing (.+\.whl)$")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One line of a pin file: `name` is normalised, `hashes` are lower-case hexadecimal SHA-256."""

    name: str
    version: Version
    hashes: frozenset[str]
    marker: Marker | None
    where: str

    @property
    def applies(self) -> bool:
        """Whether the line is for the Python and the platform that run this code."""
        return self.marker is None or self.marker.evaluate()

    @property
    def requirement(self) -> str:
        """The pin as pip wants it in hash-checking mode, without its marker."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{h}" for h in sorted(self.hashes))])


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel on disk whose hash was checked.

    `requires_python` is its own metadata's version specifier (`>=3.10`), or `*`; `requires` are the requirements whose
    markers hold here, without extras; `license` is an SPDX expression, `summary` one line. `glibc` is the oldest glibc
    that its tags name (`2.28`), or None for a wheel that needs none. `kind` is what it may be installed for: `pure`
    anything, `library` one platform and any Python, `compiled` one platform and one Python. `newest` is the time of
    the newest file inside, in UTC: a time that belongs to the wheel and not to the machine that unpacks it.
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


def read_pins(path: Path) -> tuple[Pin, ...]:
    """All pins of a requirements file, also those whose marker does not apply here.

    Raises WheelError, naming file and line, for a line that is no exact version with SHA-256 hashes.
    """
    return tuple(_parse_pin(text, f"{path}:{number}") for number, text in _logical_lines(path))


def _logical_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number of its first line, text) of each requirement: continuations joined, comments dropped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WheelError(f"The pin file cannot be read: {error}.", where=str(path)) from error
    text, begin = "", 1
    for number, line in enumerate(lines, start=1):
        if not text:
            begin = number
        clean = _COMMENT.sub("", line).rstrip()
        text += " " + clean.removesuffix("\\")
        if not clean.endswith("\\"):
            if text.strip():
                yield begin, text.strip()
            text = ""
    if text.strip():
        yield begin, text.strip()


def _parse_pin(text: str, where: str) -> Pin:
    how = "write NAME==VERSION and one --hash=sha256:… for each wheel, as `uv pip compile --generate-hashes` does."
    requirement_text, *hashes = re.split(r"\s+--hash[=\s]\s*", text)
    try:
        requirement = Requirement(requirement_text)
    except InvalidRequirement as error:
        raise WheelError(f"{requirement_text!r} is not a requirement.", where=where, fix=how) from error
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator != "==":
        raise WheelError(f"{requirement_text!r} does not pin one exact version.", where=where, fix=how)
    try:
        version = Version(specifiers[0].version)
    except InvalidVersion as error:
        raise WheelError(f"{requirement_text!r} does not pin one exact version.", where=where, fix=how) from error
    if not hashes or not all(_SHA256.fullmatch(h) for h in hashes):
        raise WheelError(f"{requirement.name} is pinned without a valid sha256 hash.", where=where, fix=how)
    return Pin(
        name=canonicalize_name(requirement.name),
        version=version,
        hashes=frozenset(h.removeprefix("sha256:") for h in hashes),
        marker=requirement.marker,
        where=where,
    )


def select_pins(pins: Iterable[Pin]) -> dict[str, Pin]:
    """The pins that apply to this Python, by name. Raises WheelError where two of one name do."""
    chosen: dict[str, Pin] = {}
    for pin in pins:
        if not pin.applies:
            continue
        if pin.name in chosen:
            raise WheelError(
                f"{pin.name} is pinned twice for this Python: {chosen[pin.name].version} and {pin.version}.",
                where=f"{chosen[pin.name].where} and {pin.where}",
                fix="keep one line, or give the lines markers that exclude each other.",
            )
        chosen[pin.name] = pin
    return chosen


def fetch_wheels(
    pins: Iterable[Pin], folder: Path, progress: Progress, *, large: Collection[str] = ()
) -> dict[str, Wheel]:
    """The wheel of every pin, from `folder` where its hash is right, else fetched by pip into `folder`.

    A wheel in the folder that should be the one but has another hash is removed and fetched again. The `large` ones,
    by name, are fetched one by one, so that a run that breaks off loses no more than one of them. Raises WheelError
    where pip finds no wheel with a pinned hash, FetchError where it reaches no index, DiskFullError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pins = tuple(pins)
    wheels = {pin.name: wheel for pin in pins if (wheel := _stored_wheel(pin, folder, progress))}
    missing = [pin for pin in pins if pin.name not in wheels]
    if missing:
        # torch first: where it cannot be had, nothing else is worth fetching.
        missing.sort(key=lambda pin: (pin.name != "torch", pin.name))
        progress.say(f"Fetching {len(missing)} wheels with pip: {', '.join(pin.name for pin in missing)}")
        rest = [pin for pin in missing if pin.name not in large]
        batches = [[pin] for pin in missing if pin.name in large] + ([rest] if rest else [])
        with progress.task("Fetching wheels", unit="bytes") as task:
            done = 0
            for batch in batches:
                with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
                    done = _pip_download(batch, Path(temporary), bool(large), task, done)
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
    """The oldest glibc that a wheel with these tags runs on, as `MAJOR.MINOR`; None where no tag names one.

    A wheel with several manylinux tags runs wherever one of them holds (PEP 600).
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
    )


def _kind(tags: Iterable[Tag]) -> Literal["pure", "library", "compiled"]:
    tags = tuple(tags)
    if all(tag.abi == "none" and tag.interpreter.startswith("py") for tag in tags):
        return "pure" if all(tag.platform == "any" for tag in tags) else "library"
    return "compiled"


def _spdx(text: str) -> str:
    """An SPDX expression for what a wheel from before `License-Expression` (PEP 639) says of its licence."""
    named = {"NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary", "Apache 2.0": "Apache-2.0"}
    text = named.get(text, text)
    return text if re.fullmatch(r"[A-Za-z0-9.+-]+", text) else "LicenseRef-see-the-wheel"


def _pip_download(pins: list[Pin], target: Path, uncached: bool, task: Task, before: int) -> int:
    """Let pip download wheels into `target`; bytes until then in, bytes until now out.

    `uncached` keeps gigabytes out of pip's own cache and of the system's temporary folder.
    """
    requirements = target / "requirements.txt"
    requirements.write_text("".join(f"{pin.requirement}\n" for pin in pins), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "raw", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command += ["--no-cache-dir"] if uncached else []
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
                    # A wheel in a folder is copied, without a word on how far that is.
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
    """What pip's output means. The texts are those of pip 25 and 26."""
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


def no_cpu_torch(pin: Pin, found: Iterable[str]) -> WheelError:
    """The error for a torch that is to be had for CUDA only. `found` are the versions that pip named."""
    plain = pin.version.public in set(found)
    what = (
        f"pip only finds a CUDA build of torch {pin.version.public} for Python {_python_version()}, not a CPU build."
        if plain
        else f"pip finds no CPU build of torch {pin.version.public} for Python {_python_version()}."
    )
    return WheelError(
        what,
        where=pin.where,
        fix=f"use a Python for which pip finds the wheel torch {pin.version} (make PYTHON=python3.11), or let pip look "
        f"where there is one: PIP_EXTRA_INDEX_URL={TORCH_CPU_INDEX}, or PIP_FIND_LINKS=FOLDER with the wheel in it.",
    )


def no_cuda_torch(cuda: str, pins: Path) -> WheelError:
    """The error for a CUDA version whose torch, or a library of it, is not in the file `pins` for this Python."""
    return WheelError(
        f"PyPI has no torch for CUDA {cuda} with Python {_python_version()} on this platform, or none that is pinned.",
        where=str(pins),
        fix="use another Python (make PYTHON=python3.11), or another CUDA version.",
    )


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"

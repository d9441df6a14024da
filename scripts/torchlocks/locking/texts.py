"""The texts of a lock: conda-lock.yml, pixi.lock, and an explicit file for each platform."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks import __version__
from torchlocks.lockfile.explicit import write_explicit
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, explicit_name, parse_lock, select_records
from torchlocks.lockfile.pixi import write_pixi
from torchlocks.lockfile.virtual import VirtualPackage

if TYPE_CHECKING:
    from conda_lock.lockfile.v2prelim.models import LockedDependency, Lockfile
    from rattler import RepoDataRecord

_HOW_TO_INSTALL = f"""\
#
# Install it with torchlocks (`torchlocks install {CONDA_LOCK} PREFIX`) or with conda-lock
# (`conda-lock install -p PREFIX {CONDA_LOCK}`). conda, mamba and micromamba take the explicit file
# conda-PLATFORM.lock beside this one (`conda create -p PREFIX --file conda-PLATFORM.lock`); given this
# file, plain conda makes an empty environment without a word. pixi takes pixi.lock.
"""


@dataclass(frozen=True, kw_only=True)
class LockContents:
    """What a lock contains: conda-lock's packages, and by platform the hash of the inputs.

    `title` are the comment lines that the file begins with, `source` the environment file that it was made from, `path`
    the name of the conda-lock.yml in messages. `metadata` has the `platform_metadata` of each platform.
    """

    title: str
    path: Path
    source: str
    channels: Sequence[str]
    packages: Sequence[LockedDependency]
    hashes: Mapping[str, str]
    metadata: Mapping[str, str]


def tool_metadata(solver: str) -> dict[str, str]:
    """Return the metadata of every lock: the versions of the tools."""
    return {"torchlocks": __version__, "conda-lock": version("conda-lock"), "solver": solver}


def platform_metadata(platform: str, virtual_packages: Mapping[str, str], records: str) -> dict[str, str]:
    """Return what a platform was locked from: virtual packages, name to "version" or "version build", and records.

    The keys end with the platform, so that others can stay unchanged.
    """
    virtual = {name: VirtualPackage.from_value(value).text for name, value in sorted(virtual_packages.items())}
    texts = " ".join(f"{name}={text}" for name, text in virtual.items())
    return {f"virtual-packages {platform}": texts, f"records {platform}": records}


def lock_texts(contents: LockContents, pool: Iterable[RepoDataRecord]) -> dict[str, str]:
    """Return the texts of a lock's files by name; the channels' records of its packages are taken from `pool`.

    Raises LockfileError if a package has no record, or one with other hashes.
    """
    import yaml
    from conda_lock.lockfile.v1.models import LockMeta
    from conda_lock.lockfile.v2prelim.models import Lockfile
    from conda_lock.models.channel import Channel

    platforms = sorted(contents.hashes)
    content = Lockfile(
        package=list(contents.packages),
        metadata=LockMeta(
            content_hash={platform: contents.hashes[platform] for platform in platforms},
            channels=[Channel.from_string(channel) for channel in contents.channels],
            platforms=platforms,
            sources=[contents.source],
            custom_metadata=dict(sorted(contents.metadata.items())),
        ),
    )
    # As conda-lock's own writer does it, but through libyaml, which gives the same text in a quarter of the time.
    content.alphasort_inplace()
    content.filter_virtual_packages_inplace()
    body = yaml.dump(content.to_v1().dict_for_output(), Dumper=yaml.CDumper, sort_keys=False)
    text = contents.title + _HOW_TO_INSTALL + body
    lock = parse_lock(text.encode(), contents.path)
    records = select_records(lock, pool)
    virtual = {platform: contents.metadata[f"virtual-packages {platform}"].split() for platform in platforms}
    return {
        CONDA_LOCK: text,
        PIXI: write_pixi({platform: records[platform] for platform in platforms}, contents.channels, virtual),
        **{explicit_name(platform): write_explicit(lock, platform) for platform in platforms},
    }


def read_with_conda_lock(data: bytes) -> Lockfile:
    """Parse a conda-lock.yml by conda-lock, which reads files only. Raises what conda-lock raises."""
    from conda_lock.lockfile import parse_conda_lock_file

    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        path = Path(scratch) / CONDA_LOCK
        path.write_bytes(data)
        return parse_conda_lock_file(path)

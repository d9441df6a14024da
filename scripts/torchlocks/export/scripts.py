"""Files that start programs in an environment: containers, batch jobs, modulefiles."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torchlocks.core.errors import ExportError
from torchlocks.export.environment import LockedTarget
from torchlocks.export.render import Place, explicit_text, render
from torchlocks.lockfile.formats import explicit_name

if TYPE_CHECKING:
    from torchlocks.lockfile.models import LockedPackage

MICROMAMBA = "2.8.1"
"""Tag of the containers' base image: the newest micromamba that the locks were tested with."""


def dockerfile(locked: Sequence[LockedTarget], place: Place) -> str:
    return render("Dockerfile.j2", locked[0], **_image_facts(locked[0]))


def apptainer(locked: Sequence[LockedTarget], place: Place) -> str:
    return render("apptainer.def.j2", locked[0], **_image_facts(locked[0]))


def slurm(locked: Sequence[LockedTarget], place: Place) -> str:
    first = locked[0]
    return render(
        "job.sbatch.j2",
        first,
        prefix=shlex.quote(place.prefix),
        driver=_driver(first),
        records=records_hash(first.packages),
    )


def records_hash(packages: Iterable[LockedPackage]) -> str:
    """Return the sha256 of the names in an environment's `conda-meta`, one a line, as `sort` sorts bytes.

    By it an environment is recognised whatever client installed it: all name a package's record alike.
    """
    names = sorted(f"{each.name}-{each.version}-{each.build}.json" for each in packages)
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


def module(locked: Sequence[LockedTarget], place: Place) -> str:
    if re.search(r"[{}\\\n]", place.prefix):
        raise ExportError(
            "A modulefile cannot name this folder: braces, backslashes and line ends have a meaning in Tcl.",
            where=place.prefix,
            fix="name another folder with --prefix",
        )
    first = locked[0]
    torch = first.version_of("pytorch")
    return render("modulefile.j2", first, prefix=place.prefix, torch=torch, driver=_driver(first))


def devcontainer(locked: Sequence[LockedTarget], place: Place) -> str:
    first = locked[0]
    document: dict[str, Any] = {
        "name": f"{first.name} on {first.platform}",
        "build": {"dockerfile": "Dockerfile", "context": "."},
        "containerEnv": {"TORCHLOCKS_LOCK_SHA256": first.lock.sha256},
        "remoteUser": "mambauser",
        "customizations": {"vscode": {"extensions": ["ms-python.python"]}},
    }
    if first.cuda:
        # "optional" would start the container without a GPU.
        document |= {"hostRequirements": {"gpu": True}, "runArgs": ["--gpus", "all"]}
    return json.dumps(document, indent=2) + "\n"


def _image_facts(locked: LockedTarget) -> dict[str, Any]:
    text = explicit_text(locked)
    return {
        "micromamba": MICROMAMBA,
        "explicit": explicit_name(locked.platform),
        "explicit_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "torch": locked.version_of("pytorch"),
        "machine": {"linux-64": "amd64", "linux-aarch64": "arm64"}.get(locked.platform, locked.platform),
    }


def _driver(locked: LockedTarget) -> str | None:
    """Return the oldest NVIDIA driver on Linux that runs the environment, if its row has one."""
    return locked.target.driver_floor if locked.target else None

"""The configuration of an image: the activated environment, labels, annotations.

Variables that packages declare (`etc/conda/env_vars.d`) are part of the image. Activation scripts are not evaluated
here: what they set can depend on the machine that the container runs on, and they are code of others. An entry point
runs them when a container starts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torchlocks import __version__
from torchlocks.core.errors import ImageError, InstallError
from torchlocks.core.files import EARLIEST_TIME_S
from torchlocks.core.reading import TEXT_BYTES, load_json, read_bytes
from torchlocks.export.environment import LockedTarget
from torchlocks.image.base import BaseImage
from torchlocks.image.documents import ARCHITECTURES

ENTRY_POINT = "etc/torchlocks/entrypoint.sh"
"""The script that runs activation scripts, below the prefix."""

CREATED = "org.opencontainers.image.created"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PREFIX = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._+-]*)+")
_SCRIPT = """\
#!/bin/sh
# Runs the activation scripts of the environment's packages, as `conda activate` does, and then the command.
for script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do
  if [ -r "$script" ]; then . "$script"; fi
done
unset script
exec "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Start:
    """How containers of an image start: variables, and the entry point (None: no activation scripts to run)."""

    variables: dict[str, str]
    entry_point: tuple[str, ...] | None


def valid_prefix(prefix: str) -> str:
    """Return where the environment is to be in the image, without a leading slash. Raises ImageError for other paths.

    Paths with blanks do not go into the first line of a script, and those with colons not into PATH.
    """
    if not _PREFIX.fullmatch(prefix) or len(prefix) > 100:
        raise ImageError(
            "The environment cannot be at this path of an image.",
            where=prefix[:200],
            fix="name an absolute path of letters, digits, dots and dashes: torchlocks image --prefix /opt/env",
        )
    return prefix[1:]


def created(locked: LockedTarget) -> datetime:
    """Return the time of an image: that of its newest package, so that it depends on the lock alone."""
    times = [package.timestamp_ms for package in locked.packages if package.timestamp_ms is not None]
    return datetime.fromtimestamp(max(times) // 1000 if times else EARLIEST_TIME_S, tz=timezone.utc)


def write_entry_point(staged: Path, prefix: str, base: BaseImage, shells: Sequence[str] = ("bash", "sh")) -> Start:
    """Return how containers start, and write the entry point into the environment, if it needs one.

    The shell is the base's, else the environment's own.
    """
    variables = {"CONDA_PREFIX": f"/{prefix}", "CONDA_DEFAULT_ENV": f"/{prefix}", "CONDA_SHLVL": "1"}
    # A mounted home folder may have packages that are not in the lock.
    variables |= {"PYTHONNOUSERSITE": "1", **_declared(staged)}
    if not any((staged / "etc" / "conda" / "activate.d").glob("*.sh")):
        return Start(variables=variables, entry_point=None)
    own = next((f"/{prefix}/bin/{name}" for name in shells if (staged / "bin" / name).exists()), None)
    if (shell := base.contents.shell or own) is None:
        return Start(variables=variables, entry_point=())
    script = staged / ENTRY_POINT
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(_SCRIPT, encoding="utf-8")
    return Start(variables=variables, entry_point=(shell, f"/{prefix}/{ENTRY_POINT}"))


def _declared(staged: Path) -> dict[str, str]:
    """The variables that packages declare in files."""
    found: dict[str, str] = {}
    for path in sorted((staged / "etc" / "conda" / "env_vars.d").glob("*.json")):
        try:
            declared = load_json(read_bytes(path, TEXT_BYTES))
            for name, value in declared.items():
                if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or "\0" in value:
                    raise ValueError(f"{name!r} is no variable")
                found[name] = value
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InstallError(
                f"A file that sets variables of the environment is damaged: {error}.",
                where=path.relative_to(staged).as_posix(),
                fix="report the package that owns it.",
            ) from None
    return found


def labels_of(locked: LockedTarget) -> dict[str, str]:
    """Return the labels of an image, which are those of the Dockerfile export, too."""
    return {
        "torchlocks.environment": locked.name,
        "torchlocks.platform": locked.platform,
        "torchlocks.lock.sha256": locked.lock.sha256,
    }


def annotations_of(locked: LockedTarget, base: BaseImage) -> dict[str, str]:
    """Return the annotations of the image's manifest."""
    torch = locked.version_of("pytorch") or locked.version_of("libtorch")
    accelerator = f"CUDA {locked.cuda} or newer" if locked.cuda else "CPU"
    found = {
        **labels_of(locked),
        "org.opencontainers.image.title": locked.name,
        "org.opencontainers.image.description": f"{f'PyTorch {torch}' if torch else locked.name} ({accelerator}), "
        f"{len(locked.packages)} conda packages for {locked.platform}",
        "org.opencontainers.image.version": locked.lock.sha256[:12],
        CREATED: _time(locked),
    }
    if base.digest:
        found["org.opencontainers.image.base.digest"] = base.digest
    if base.name:
        found["org.opencontainers.image.base.name"] = base.name
    return found


def config_document(
    locked: LockedTarget, base: BaseImage, start: Start, prefix: str, layers: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Return the configuration; `layers` are (digest of the decompressed layer, its contents) of the new layers."""
    given = base.settings
    variables = dict(entry.partition("=")[::2] for entry in given.Env or () if "=" in entry)
    path = [f"/{prefix}/bin", *(variables.get("PATH") or _PATH).split(":")]
    variables |= {**start.variables, "PATH": ":".join(dict.fromkeys(path))}
    if locked.cuda:
        # What the NVIDIA Container Toolkit reads: which GPUs, which libraries of the driver, and the driver needed.
        variables |= {
            "NVIDIA_VISIBLE_DEVICES": "all",
            "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
            "NVIDIA_REQUIRE_CUDA": f"cuda>={locked.cuda}",
        }
    entry_point = [*(start.entry_point or ()), *(given.Entrypoint or ())]
    settings = {
        **given.model_dump(exclude_none=True),
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "Labels": {**(given.Labels or {}), **labels_of(locked)},
        "Cmd": given.Cmd or ([] if given.Entrypoint else ["python"]),
    }
    if entry_point:
        settings["Entrypoint"] = entry_point
    if not settings["Cmd"]:
        del settings["Cmd"]
    history = [*base.history, *({"created_by": f"torchlocks {__version__}: {what}"} for _, what in layers)]
    document: dict[str, Any] = {
        "created": _time(locked),
        "architecture": ARCHITECTURES[locked.platform],
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [*base.diff_ids, *(diff_id for diff_id, _ in layers)]},
        # umoci crashes if an entry has no time.
        "history": [{"created": _time(locked), **entry} for entry in history],
    }
    if base.variant:
        document["variant"] = base.variant
    return document


def _time(locked: LockedTarget) -> str:
    return created(locked).strftime("%Y-%m-%dT%H:%M:%SZ")

"""Export a lock for other tools: explicit file, pins for conda, pip and pixi, containers, batch jobs.

An export depends on the lock alone and contains its hash. Only the explicit file and the containers, which use it,
contain hashes of packages; pins are for tools that solve again, and have names, versions and builds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torchlocks.core.errors import ExportError
from torchlocks.export import pins, scripts
from torchlocks.export.environment import LockedTarget
from torchlocks.export.render import Place, explicit_text


@dataclass(frozen=True, kw_only=True)
class Format:
    """One export format: its name, usual file name, purpose, and the function that renders it."""

    name: str
    file: str
    purpose: str
    make: Callable[[Sequence[LockedTarget], Place], str]
    linux_only: bool = False

    def file_for(self, locked: LockedTarget) -> str:
        """Return the usual file name, with platform and environment filled in."""
        return self.file.format(platform=locked.platform, name=locked.name)


def export(form: Format, locked: Sequence[LockedTarget], place: Place) -> str:
    """Return the text of an export. `locked` are the platforms of one lock; all formats but pixi's use the first.

    Raises ExportError if the lock cannot be written in this format, LockfileError if a package has no hash.
    """
    first = locked[0]
    if form.linux_only and not first.platform.startswith("linux-"):
        raise ExportError(
            f"A {form.name} export is for Linux, and this is {first.platform}.",
            where=f"{first.name}: {first.lock.path}",
            fix="name a Linux platform with --platform, or another --format",
        )
    return form.make(locked, place)


def not_exported(locked: LockedTarget) -> tuple[str, ...]:
    """Return the packages of a lock from elsewhere that are pip's or built from source, which no export contains."""
    left_to_pip = (package.requirement for package in locked.lock.pip.get(locked.platform, ()))
    return (*left_to_pip, *locked.lock.sources.get(locked.platform, ()))


FORMATS: Mapping[str, Format] = {
    form.name: form
    for form in (
        Format(
            name="explicit",
            file="conda-{platform}.lock",
            purpose="conda, mamba, micromamba: every package by URL and hash",
            make=lambda locked, place: explicit_text(locked[0]),
        ),
        Format(
            name="environment",
            file="environment.yml",
            purpose="conda, mamba, conda-lock: names, versions and builds, to be solved again",
            make=pins.environment_file,
        ),
        Format(
            name="constraints",
            file="constraints.txt",
            purpose="pip and uv: the versions of the Python packages (-c constraints.txt)",
            make=pins.constraints_file,
        ),
        Format(
            name="pixi",
            file="pixi.toml",
            purpose="pixi: a manifest for the pixi.lock beside it",
            make=pins.pixi_manifest,
        ),
        Format(
            name="dockerfile",
            file="Dockerfile",
            purpose="docker, podman: an image from the explicit file",
            make=scripts.dockerfile,
            linux_only=True,
        ),
        Format(
            name="apptainer",
            file="{name}.def",
            purpose="Apptainer, Singularity: the same image for clusters",
            make=scripts.apptainer,
            linux_only=True,
        ),
        Format(
            name="slurm",
            file="{name}.sbatch",
            purpose="Slurm: a batch job in the installed environment",
            make=scripts.slurm,
            linux_only=True,
        ),
        Format(
            name="module",
            file="{name}.modulefile",
            purpose="Lmod and Environment Modules: `module load` for the installed environment",
            make=scripts.module,
            linux_only=True,
        ),
        Format(
            name="devcontainer",
            file="devcontainer.json",
            purpose="VS Code, Codespaces: a development container on the Dockerfile",
            make=scripts.devcontainer,
            linux_only=True,
        ),
    )
}

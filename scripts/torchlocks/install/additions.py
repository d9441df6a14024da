"""What a user added to an environment since it was installed, so that no installation removes it without a warning."""

from __future__ import annotations

from pathlib import Path

from torchlocks.core.errors import InstallError
from torchlocks.core.quantities import shortened
from torchlocks.install.provenance import read_provenance, record_names


def refuse_to_drop_additions(prefix: Path) -> None:
    """Raise InstallError, with a list, if packages or files were added to the environment at `prefix`.

    An environment that does not record what was installed is not looked at. Names are compared; no file is hashed.
    """
    found = read_provenance(prefix)
    if found is None:
        return
    records = set(record_names(prefix))
    conda = sorted(records - set(found.records))
    # The files of a record that is gone would count as added.
    pip, files = _added_files(prefix) if records >= set(found.records) else ([], [])
    if not (conda or pip or files):
        return
    lines = [f"  conda: {name}" for name in conda]
    lines += [f"  pip:   {package}" for package in pip]
    lines += [f"  files: {shortened(files)}"] if files else []
    kinds = ((conda, "by conda"), (pip, "by pip"), (files, "files"))
    counted = [f"{len(names)} {kind}" for names, kind in kinds if names]
    raise InstallError(
        f"Installing this anew would drop what was added to the environment since: {', '.join(counted)}.",
        where=str(prefix),
        fix="build it without them: FORCE=1 (torchlocks: --force); "
        f"make rollback ENV={found.name} brings the one that is there now back"
        "\nor lock them on top of the environment: name them in an environment.yml, and "
        f"torchlocks extend environment.yml --base {found.name}"
        "\nor take them out first (pip uninstall)",
        details="\n".join(lines),
    )


def _added_files(prefix: Path) -> tuple[list[str], list[str]]:
    """(name and version of each package that pip installed, all other files that no package brought)."""
    from torchlocks.install.fsck import extra_files, files_of, pip_packages

    known: set[str] = set()
    for record in (prefix / "conda-meta").glob("*.json"):
        try:
            known.update(file.path for file in files_of(record))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # A damaged record names no files; without them, all of its package's would count as added.
            return [], []
    extra = extra_files(prefix, known)
    pip, theirs = pip_packages(prefix, extra)
    return [f"{each.name} {each.version}" for each in pip], [path for path in extra if path not in theirs]

"""Exchange of a finished environment with another; a kill at any instant leaves one of them complete.

Beside the prefix `<name>` live, hidden, in the same folder: `.<name>.new-<id>`, an environment that is being made;
`.<name>.previous`, the one that was there before; `.<name>.trash-<id>`, what is being deleted; `.<name>.swap`, the
journal of a swap in two steps. Everything here expects the caller to hold the prefix's lock.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from secrets import token_hex

from torchlocks.core.errors import InstallError, MissingFileError
from torchlocks.core.systems import here
from torchlocks.install.provenance import read_provenance


def hidden(prefix: Path, kind: str) -> Path:
    """The hidden sibling of `prefix` named for `kind`."""
    return prefix.with_name(f".{prefix.name}.{kind}")


def new_sibling(prefix: Path) -> tuple[Path, str]:
    """(an empty hidden folder beside `prefix` to install into, the id in its name). Raises OSError."""
    install_id = token_hex(4)
    folder = hidden(prefix, f"new-{install_id}")
    folder.mkdir(parents=True)
    return folder, install_id


def discard(folder: Path, prefix: Path) -> None:
    """Delete `folder`, which is or was part of `prefix`'s family. Raises OSError when it cannot be renamed.

    It is renamed first, so that being killed midway leaves nothing that looks like an environment.
    """
    if (trash := _set_aside(folder, prefix)) is not None:
        shutil.rmtree(trash, ignore_errors=True)


def _set_aside(folder: Path, prefix: Path) -> Path | None:
    """Rename `folder` to what `repair` deletes; None when there is no such folder."""
    trash = hidden(prefix, f"trash-{token_hex(4)}")
    try:
        folder.rename(trash)
    except FileNotFoundError:
        return None
    return trash


def repair(prefix: Path) -> None:
    """Complete or undo what a killed run left beside `prefix`, and delete its leftovers. Raises OSError."""
    journal = hidden(prefix, "swap")
    if journal.exists():
        # Killed in the middle of a swap in two steps: put the old environment back.
        previous = hidden(prefix, "previous")
        if not os.path.lexists(prefix) and previous.is_dir():
            previous.rename(prefix)
        journal.unlink(missing_ok=True)
    current = read_provenance(prefix)
    for left, install_id in _siblings(prefix, "new"):
        if current is not None and current.install_id == install_id and (left / "conda-meta").is_dir():
            # The exchange was made, so this is the old environment under the new one's name.
            _keep_as_previous(left, prefix)
        else:
            discard(left, prefix)
    for left, _ in _siblings(prefix, "trash"):
        shutil.rmtree(left, ignore_errors=True)


def has_leftovers(prefix: Path) -> bool:
    """Whether a killed run left something beside `prefix` that `repair` would complete, undo or delete."""
    try:
        return hidden(prefix, "swap").exists() or bool(_siblings(prefix, "new") or _siblings(prefix, "trash"))
    except OSError:
        return False


def put_in_place(new: Path, prefix: Path) -> None:
    """Make `new` the environment at `prefix`; what was there becomes the previous one. Raises OSError.

    Where the system can exchange two folders in one step (Linux, macOS), there is no instant without an
    environment. Elsewhere two renames do it, and `repair` undoes a first one that was not followed by the second.
    """
    if not os.path.lexists(prefix):
        new.rename(prefix)
        return
    if exchange(new, prefix):
        _keep_as_previous(new, prefix)
        return
    previous = hidden(prefix, "previous")
    journal = hidden(prefix, "swap")
    if previous.exists():
        discard(previous, prefix)
    journal.write_text(json.dumps({"new": new.name}), encoding="utf-8")
    prefix.rename(previous)
    try:
        new.rename(prefix)
    except OSError:
        previous.rename(prefix)
        journal.unlink()
        raise
    # Left behind by anything else than an OSError, such as Ctrl-C, so that `repair` knows.
    journal.unlink()


def rollback(prefix: Path) -> None:
    """Exchange the environment at `prefix` with the previous one; a second rollback undoes the first.

    The caller holds the prefix's lock. Raises MissingFileError when there is no previous environment,
    InstallError when the file system refuses.
    """
    previous = hidden(prefix, "previous")
    if not previous.is_dir():
        raise MissingFileError(
            "There is no previous environment to go back to.",
            where=str(prefix),
            fix="install the lock that you want; `git log` shows which locks there were.",
        )
    try:
        if not os.path.lexists(prefix):
            previous.rename(prefix)
        elif not exchange(previous, prefix):
            aside = hidden(prefix, f"trash-{token_hex(4)}")
            hidden(prefix, "swap").write_text("{}", encoding="utf-8")
            prefix.rename(aside)
            previous.rename(prefix)
            aside.rename(previous)
            hidden(prefix, "swap").unlink(missing_ok=True)
    except OSError as error:
        raise InstallError(
            f"The previous environment could not be restored: {error.strerror}.", where=str(prefix)
        ) from error


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot. Raises OSError otherwise."""
    return here.exchange(one, other)


def _keep_as_previous(old: Path, prefix: Path) -> None:
    """Make `old` the previous environment of `prefix`, unless the one kept so far is better.

    An environment that passed its suite is not given up for one that did not.
    """
    previous = hidden(prefix, "previous")
    kept, leaving = read_provenance(previous), read_provenance(old)
    if kept is not None and kept.verified and not (leaving is not None and leaving.verified):
        discard(old, prefix)
        return
    trash = _set_aside(previous, prefix)
    old.rename(previous)
    # Deleting takes longest, and comes last.
    if trash is not None:
        shutil.rmtree(trash, ignore_errors=True)


def _siblings(prefix: Path, kind: str) -> list[tuple[Path, str]]:
    """The hidden siblings of a kind with an id of ours, and that id.

    Only whole names count: those of the environment `env.new-2` begin like those of `env`.
    """
    pattern = re.compile(rf"{re.escape(hidden(prefix, kind).name)}-([0-9a-f]{{8}})")
    found = ((each, pattern.fullmatch(each.name)) for each in sorted(prefix.parent.iterdir()))
    return [(each, match[1]) for each, match in found if match]

"""Whether an environment is up to date, from the contents of its inputs and its own provenance alone.

`make env-cpu` on an environment that is up to date should cost little more than make and a start of Python. So the
command line asks here before it imports anything else, and what this module imports is counted in milliseconds:
no pathlib, no typing, no dataclasses. Paths are strings.
"""

# Importing pathlib takes longer than all that is done here.
# ruff: noqa: PTH109, PTH113, PTH118, PTH208
from __future__ import annotations

import os
import stat
import sys

from torchlocks import __version__
from torchlocks.core.quick_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO
    from typing import Any

RECORD = os.path.join("conda-meta", "torchlocks")
"""The file with an environment's provenance; the module `provenance` describes its contents."""

SCHEMA = 1

_RECORD_BYTES = 16 << 20
"""Most bytes of a record that are read; real ones have some 20 KB."""
_BLOCK = 4 << 20


def read_record(prefix: str) -> dict[str, Any] | None:
    """The keys of the record of the environment in `prefix`; None when there is none that can be read."""
    try:
        with _opened(os.path.join(prefix, RECORD)) as stream:
            raw = loads(stream.read(_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return raw if isinstance(raw, dict) and raw.pop("schema", None) == SCHEMA else None


def _opened(path: str) -> FileIO:
    """Open a regular file without a buffer, which would only add system calls for what is read at once.

    Raises OSError for all else: opening a FIFO would block, and some devices never end.
    """
    stream = open(path, "rb", buffering=0, opener=_open)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(f"{path} is not a file")
    return stream


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def checksum(record: dict[str, Any]) -> str:
    """A hash of the record's keys without the hash itself and the schema; it detects changes."""
    import hashlib
    import json

    content = {key: value for key, value in record.items() if key not in ("checksum", "schema")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_intact(record: dict[str, Any]) -> bool:
    """Whether a record is as it was written; True for one without a hash, as older versions wrote it."""
    return record.get("checksum") in (None, checksum(record))


def is_as_recorded(record: dict[str, Any], prefix: str) -> bool:
    """True when the environment in `prefix` was made for this place, and no package was added or removed since.

    The names of package records are compared, not every file: that is what `fsck` is for.
    """
    return record.get("prefix") == prefix and record.get("records") == record_names(prefix)


def record_names(prefix: str) -> list[str]:
    """The names of the package records in `conda-meta`, sorted, without `.json`."""
    try:
        names = os.listdir(os.path.join(prefix, "conda-meta"))
    except OSError:
        return []
    return sorted(name[:-5] for name in names if name.endswith(".json") and not name.startswith("."))


def inputs_of(root: str, env: str, platform: str, channel: str) -> dict[str, str]:
    """All that an environment is made and verified from, each with a short hash of its content.

    Files of the checkout `root` are named relative to it; `(version)`, `(channel)` and `(machine)` are the others.
    Contents count and times do not: git and rsync set times that mean nothing.
    """
    import hashlib

    machine = os.uname().machine if hasattr(os, "uname") else ""
    asked = f"{env} {platform} {sys.platform} {machine} {os.environ.get('CONDA_SUBDIR', '')}"
    found = {"(version)": __version__, "(channel)": channel, "(machine)": asked}
    for path in _inputs(root, env, channel):
        try:
            with _opened(path) as stream:
                digest = hashlib.sha256()
                # A buffer of more than the file has is allocated and cut for each of them.
                block = min(os.fstat(stream.fileno()).st_size + 1, _BLOCK)
                while content := stream.read(block):
                    digest.update(content)
        except OSError:
            continue
        found[path[len(root) + 1 :].replace(os.sep, "/")] = digest.hexdigest()[:16]
    return found


def _inputs(root: str, env: str, channel: str) -> Iterator[str]:
    for name in ("matrix.yml", f"environment-{env.split('-')[0]}.yml"):
        yield os.path.join(root, name)
    local = [("recipes", "local")] if channel != "conda-forge" else []
    for folder in (("locks", env), *local, ("tests", "torch")):
        for parent, folders, files in os.walk(os.path.join(root, *folder)):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
            yield from (os.path.join(parent, name) for name in sorted(files) if not name.startswith("."))


def changed_inputs(record: dict[str, Any], now: dict[str, str]) -> list[str]:
    """The inputs of `now` that are not as in `record`, each in a few words; empty if all are the same."""
    before = record.get("inputs")
    if not isinstance(before, dict) or not before:
        return ["what it was made from is not recorded"]
    words = {"(version)": "the version of torchlocks", "(channel)": "CHANNEL", "(machine)": "the machine or platform"}
    return [
        words.get(name, name if name in before and name in now else f"{name} ({'new' if name in now else 'gone'})")
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def nothing_to_do(root: str, prefix: str, env: str, channel: str, platform: str | None = None) -> str | None:
    """A sentence when `env` is installed in `prefix` from the inputs that are there now, and was verified; else None.

    `platform` must be the environment's, where it is given; without it the inputs speak for the machine.
    """
    record = read_record(prefix)
    if record is None or record.get("verified") is not True or platform not in (None, record.get("platform")):
        return None
    now = inputs_of(root, env, str(record.get("platform")), channel)
    if changed_inputs(record, now) or not is_as_recorded(record, prefix):
        return None
    used = record.get("channels_used")
    local = isinstance(used, list) and bool(used) and str(used[0]).startswith("file:")
    where = "the local channel" if local else "its lock"
    return f"{env} is up to date: made from {where}, verified {record.get('verified_at')}. Nothing to do."


def reason_to_work(record: dict[str, Any], prefix: str, now: dict[str, str]) -> str:
    """Why an installed environment is checked again, in a sentence without a full stop."""
    if changed := changed_inputs(record, now):
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        return f"changed since it was made: {shown}"
    if not is_as_recorded(record, prefix):
        return "its packages are not those that were installed"
    return "it has not passed its verification"


def has_leftovers(prefix: str) -> bool:
    """Whether a killed run may have left something beside the environment; cleaning up is the installer's."""
    folder, name = os.path.split(prefix)
    try:
        return any(
            each.startswith((f".{name}.new-", f".{name}.trash-", f".{name}.swap")) for each in os.listdir(folder)
        )
    except OSError:
        return False


def quick_answer(arguments: Sequence[str]) -> str | None:
    """What `torchlocks env cpu …`, as make calls it in a checkout, prints if there is nothing to do.

    None for all else: other verbs and options, other places, mistakes, and work to do are the command line's.
    """
    if tuple(arguments[:2]) != ("env", "cpu") or os.environ.get("TORCHLOCKS_ROOT") or os.environ.get("TORCHLOCKS_HOME"):
        return None
    channel = "auto"
    rest = iter(arguments[2:])
    for option in rest:
        if option == "--channel":
            channel = next(rest, "")
        elif option == "--mirror":
            next(rest, "")
        elif option != "--offline":
            return None
    root = os.getcwd()
    if channel not in ("auto", "conda-forge", "local") or not os.path.isfile(os.path.join(root, "matrix.yml")):
        return None
    prefix = os.path.join(root, "envs", "cpu")
    return None if has_leftovers(prefix) else nothing_to_do(root, prefix, "cpu", channel)

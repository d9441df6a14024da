"""Whether an environment is up to date, from file times and what it says of itself alone.

`make env-cpu` on an environment that is up to date should cost no more than make and a start of Python. So
this imports the standard library's lightest modules only, and the command line asks here before it imports click.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence

from torchlocks import __version__
from torchlocks.layout import Layout
from torchlocks.provenance import is_current, read_provenance


def inputs_fingerprint(layout: Layout, env: str, platform: str, channel: str) -> str:
    """A hash of all that an environment is made from, by the names, sizes and times of the files.

    Times count, as they do for make: touching a template makes its environment again.
    """
    sha = hashlib.sha256(f"{__version__} {env} {platform} {channel}\n".encode())
    root = f"{layout.root}{os.sep}"
    for path in _inputs(layout, env):
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path a file costs more than all else here
        except OSError:
            continue
        sha.update(f"{path.removeprefix(root)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return sha.hexdigest()


def _inputs(layout: Layout, env: str) -> Iterator[str]:
    yield str(layout.matrix)
    yield str(layout.root / f"environment-{env.split('-')[0]}.yml")
    yield str(layout.root / "requirements.txt")
    for folder in (layout.locks / env, layout.recipes / "local", layout.suite):
        for parent, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
            yield from (f"{parent}{os.sep}{name}" for name in sorted(files))


def nothing_to_do(layout: Layout, env: str, platform: str, fingerprint: str) -> str | None:
    """A sentence when `env` is installed from the inputs of `fingerprint` and was verified, else None."""
    prefix = layout.prefix(env)
    found = read_provenance(prefix)
    if found is None or not found.verified or not is_current(prefix, found.lock_sha256, platform, fingerprint):
        return None
    where = "the local channel" if found.channels_used and found.channels_used[0].startswith("file:") else "its lock"
    return f"{env} is up to date: made from {where}, verified {found.verified_at}. Nothing to do."


def quick_answer(arguments: Sequence[str]) -> str | None:
    """What `torchlocks env cpu …`, as make calls it, answers where there is nothing to do.

    None for anything else: other verbs, other options, mistakes, and work to do are the command line's.
    """
    if tuple(arguments[:2]) != ("env", "cpu"):
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
    if channel not in ("auto", "conda-forge", "local"):
        return None
    from torchlocks.errors import TorchlocksError
    from torchlocks.host import host_platform
    from torchlocks.layout import find_layout

    try:
        layout, platform = find_layout(), host_platform()
    except TorchlocksError:
        return None
    return nothing_to_do(layout, "cpu", platform, inputs_fingerprint(layout, "cpu", platform, channel))

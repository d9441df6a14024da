"""Run GitHub's command line `gh`, which runners have; for steps of workflows."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from torchlocks.core.errors import ActionError

_TIMEOUT_S = 600


def run_gh(root: Path, *arguments: str, given: str = "") -> str:
    """Return the output of `gh ARGUMENTS`, run in the checkout `root` with `given` as its input.

    gh takes its token from GH_TOKEN. Raises ActionError if there is no gh, or it fails.
    """
    program = shutil.which("gh")
    where = f"gh {' '.join(arguments[:2])}"
    if program is None:
        raise ActionError("gh is not installed.", where="PATH", fix="GitHub's runners have it: https://cli.github.com")
    try:
        done = subprocess.run(
            [program, *arguments], cwd=root, input=given.encode(), capture_output=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise ActionError(f"gh was not done within {_TIMEOUT_S} s.", where=where) from None
    if done.returncode:
        raise ActionError(
            "gh failed.",
            where=where,
            fix="see its output below; GH_TOKEN needs the permission, and GitHub Actions must be allowed to create "
            "pull requests in the repository's settings",
            details=done.stderr.decode(errors="replace").strip(),
        )
    return done.stdout.decode(errors="replace")

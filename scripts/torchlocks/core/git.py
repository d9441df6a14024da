"""Asking git, without a terminal: what it says, or why it does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


class GitError(Exception):
    """git said no; the message is what it said."""


class GitMissingError(GitError):
    """There is no git that can be run."""


def git(*arguments: str, cwd: Path | None = None, given: bytes | None = None) -> bytes:
    """What `git ARGUMENTS` prints, run in the folder `cwd` (default: the current one), with `given` on standard input.

    Raises GitError when it ends with an error, GitMissingError where it is not installed.
    """
    # No question can be answered here: without this, git would wait for a password.
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=cwd, input=given, capture_output=True, check=False, env=environment
        )
    except OSError as error:
        said = "is not installed" if isinstance(error, FileNotFoundError) else f"cannot be run: {error.strerror}"
        raise GitMissingError(f"git {said}.") from None
    if done.returncode:
        raise GitError(done.stderr.decode(errors="replace").strip().removeprefix("fatal: "))
    return done.stdout

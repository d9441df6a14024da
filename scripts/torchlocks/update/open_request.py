"""Commit files on a branch and open or update its pull request, with git and GitHub's command `gh`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from torchlocks.core.errors import ActionError, MissingFileError
from torchlocks.core.git import GitError, git
from torchlocks.core.github import run_gh
from torchlocks.core.layout import Layout
from torchlocks.core.reading import read_text
from torchlocks.update.pull_request import MOST_OF_BODY, MOST_OF_TITLE

_BOT = (
    *("-c", "user.name=github-actions[bot]"),
    *("-c", "user.email=41898282+github-actions[bot]@users.noreply.github.com"),
    *("-c", "commit.gpgsign=false"),
    # The checkout stores no credentials; gh has the job's token.
    *("-c", "credential.helper="),
    *("-c", "credential.helper=!gh auth git-credential"),
)


def open_request(layout: Layout, branch: str, body: Path, paths: Sequence[str]) -> str:
    """Commit changes below `paths` on `branch`, push it, and open or update its pull request; return a summary.

    The first heading of `body` is the title. Without changes nothing is done. Raises MissingFileError if there is no
    body, ActionError if git or gh fails.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}", branch) or ".." in branch:
        raise ActionError(f"{branch[:100]!r} is not a valid branch name.", fix="use letters, digits and dashes")
    title, text = _read(body)
    root = layout.root
    try:
        known = [path for path in paths if (root / path).exists() or git("ls-files", "--", path, cwd=root)]
        git("add", "--all", "--", *known, cwd=root)
        if not git("diff", "--cached", "--name-only", cwd=root).strip():
            return "nothing has changed, so there is no pull request to open"
        git("switch", "--quiet", "--force-create", branch, cwd=root)
        git(*_BOT, "commit", "--quiet", "--message", title, cwd=root)
        git(*_BOT, "push", "--quiet", "--force", "origin", f"HEAD:refs/heads/{branch}", cwd=root)
    except GitError as error:
        raise ActionError(
            f"git could not commit and push the changes to {branch}.", where=str(root), details=str(error)
        ) from None
    found = json.loads(run_gh(root, "pr", "list", "--head", branch, "--state", "open", "--json", "number") or "[]")
    if found:
        run_gh(root, "pr", "edit", branch, "--title", title, "--body-file", "-", given=text)
        return f"updated the pull request of {branch}: {title}"
    run_gh(root, "pr", "create", "--head", branch, "--title", title, "--body-file", "-", given=text)
    return f"opened a pull request for {branch}: {title}"


def _read(body: Path) -> tuple[str, str]:
    try:
        text = read_text(body)
    except (OSError, UnicodeDecodeError) as error:
        raise MissingFileError(
            "The text of the pull request cannot be read.", where=str(body), fix="write it first", details=str(error)
        ) from None
    found = re.search(r"^#+ (.+)$", text, re.MULTILINE)
    if found is None:
        raise MissingFileError("The text has no heading, which is the title.", where=str(body), fix="begin with '## '")
    return found[1].strip()[:MOST_OF_TITLE], text[:MOST_OF_BODY]

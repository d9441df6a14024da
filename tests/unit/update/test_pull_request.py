"""The text of an update, when more moved than a pull request takes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from torchlocks.check.model import Finding, Report
from torchlocks.core.errors import ChannelUnreachableError
from torchlocks.core.layout import Layout
from torchlocks.diff.compare import diff
from torchlocks.diff.read import Side
from torchlocks.lockfile.formats import read_lock
from torchlocks.locking.environments import LockFailure
from torchlocks.matrix.load import load_matrix
from torchlocks.update.pull_request import MOST_OF_BODY, MOST_OF_TITLE, body, headline
from torchlocks.update.relock import EnvironmentUpdate, Update, first_error

LAYOUT = Layout(Path(__file__).parents[3])


def moved(count: int) -> Update:
    """The first `count` environments, in each of which every package moved, torch differently in each."""
    changed = []
    for number, name in enumerate(list(load_matrix(LAYOUT.matrix).environments)[:count]):
        lock = read_lock(LAYOUT.locks / name / "pixi.lock")
        before = {
            platform: tuple(replace(package, version=f"0.{number}", url=f"{package.url}.old") for package in packages)
            for platform, packages in lock.packages.items()
        }
        found = diff(Side(name="before", packages=before, rows={}), Side(name="now", packages=lock.packages, rows={}))
        changed.append(EnvironmentUpdate(env=name, lock=lock, diff=found, unsigned=(), verified=()))
    return Update(changed=tuple(changed), unchanged=(), failures=(), recipes=(), check=Report())


def test_a_short_text_lists_every_package() -> None:
    update = moved(2)
    text = body(update)
    rows = re.findall(r"^\| \S+ \| (?:added|removed|upgraded|downgraded|rebuilt|replaced) \|", text, re.MULTILINE)
    assert len(rows) == sum(len(p.changes) for each in update.changed if each.diff for p in each.diff.platforms) > 50
    assert "Too many moved" not in text


def test_a_pull_request_takes_title_and_text_however_much_moved() -> None:
    update = moved(99)
    assert len(update.changed) > 8
    assert f"of {len(update.changed)} environments: torch moved in " in headline(update)
    assert len(headline(update)) <= MOST_OF_TITLE
    text = body(update)
    assert len(text) <= MOST_OF_BODY
    assert "Too many moved for one text" in text
    # The table of what it means is there all the same.
    assert {each.env for each in update.changed if f"| {each.env} |" in text} == {each.env for each in update.changed}


def test_an_unreachable_channel_is_not_reported_as_an_unsolvable_lock() -> None:
    """An unreachable channel is not a missing solution, and unchanged locks are not called new."""
    target = load_matrix(LAYOUT.matrix).target("cpu", "linux-64")
    down = LockFailure(target=target, error=ChannelUnreachableError("The channel cannot be read."))
    wrong = Report(findings=(Finding(rule="file-unknown", severity="error", path="locks/cpu/x", message="strange"),))
    none = Update(changed=(), unchanged=("gpu-cu118",), failures=(down,), recipes=(), check=Report())
    assert "could not be locked" in body(none)
    assert "solution" not in body(none)
    assert first_error(none) is down.error
    for update, said in (
        (replace(none, failures=(), check=wrong), "unchanged"),
        (replace(moved(1), check=wrong), "new"),
    ):
        error = first_error(update)
        assert error is not None
        assert said in error.what

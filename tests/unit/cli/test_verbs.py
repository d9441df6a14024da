"""`make` is a convenience: what it does for users, `torchlocks` does too, on systems without make as well."""

from __future__ import annotations

import re
from pathlib import Path

from torchlocks.cli.verbs import VERBS

ROOT = Path(__file__).parents[3]
#: What works on the checkout itself, for those who develop it.
FOR_DEVELOPERS = {"help", "lint", "test", "test-unit", "golden", "requirements", "clean"}


def recipes() -> dict[str, str]:
    """Each documented verb of the Makefile, and its recipe."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z-]+):.*?## .*\n((?:\t.*\n)+)", text, re.MULTILINE)
    return dict(found)


def test_every_verb_of_make_is_one_of_torchlocks() -> None:
    verbs = {name: re.findall(r"\$\(TOOL\) ([a-z-]+)", recipe) for name, recipe in recipes().items()}
    assert len(verbs) > 25
    assert {name for name, called in verbs.items() if not called} == FOR_DEVELOPERS
    assert {verb for called in verbs.values() for verb in called} <= set(VERBS)
    # One line that calls the tool, with no logic of its own in between.
    assert all(len(called) == 1 for name, called in verbs.items() if name not in FOR_DEVELOPERS)


def test_verbs_without_make_are_named_where_people_look() -> None:
    called = {verb for recipe in recipes().values() for verb in re.findall(r"\$\(TOOL\) ([a-z-]+)", recipe)}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [verb for verb in sorted(set(VERBS) - called - {"action"}) if verb not in readme] == []

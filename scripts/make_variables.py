"""Refuse variables on make's command line that the verb does not take, naming the nearest that it does.

    python3 scripts/make_variables.py "GOAL …" NAME …

make takes any NAME=value and ignores it: `make env-gpu CDUA=11.8` would build for another CUDA version. What a verb
takes is in the brackets of its comment in the Makefile.
"""

# Importing pathlib takes as long as the rest: this runs before every `make VERB NAME=value`.
# ruff: noqa: PTH100, PTH118, PTH120, PTH123
import os
import re
import sys

MAKEFILE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "Makefile")
VERB = re.compile(r"^([a-z-]+):.*?## (.*)$", re.MULTILINE)
NAME = re.compile(r"\b([A-Z][A-Z_]*)=")
SETTABLE = re.compile(r"^([A-Z][A-Z_]*) *\?=", re.MULTILINE)
ANYWHERE = {"PYTHON", "VENV", "SHELL", "MAKEFLAGS"}


def problem(goals: list[str], names: list[str], makefile: str) -> str | None:
    """What is wrong with the first of `names` that no verb of `goals` takes, and what to do; None for nothing."""
    takes = {verb: set(NAME.findall(comment)) for verb, comment in VERB.findall(makefile)}
    known = set(SETTABLE.findall(makefile)).union(*takes.values(), ANYWHERE)
    asked = [goal for goal in goals if goal in takes] or ["help"]
    taken = set().union(*(takes[goal] for goal in asked))
    for name in names:
        if name in taken or name in ANYWHERE:
            continue
        verbs = " ".join(asked)
        listed = ", ".join(sorted(taken)) or "none"
        if name in known:
            return f"make {verbs} does not take {name}. Leave it out; it takes: {listed}"
        from difflib import get_close_matches

        near = next(filter(None, (get_close_matches(name.upper(), sorted(some), 1) for some in (taken, known))), [])
        meant = f"Did you mean {near[0]}? " if near else ""
        return f"There is no variable {name!a}. {meant}make {verbs} takes: {listed}"
    return None


if __name__ == "__main__":
    with open(MAKEFILE, encoding="utf-8") as stream:
        found = problem(sys.argv[1].split(), sys.argv[2:], stream.read())
    if found:
        print(found)

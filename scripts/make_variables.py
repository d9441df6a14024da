"""Word the refusal of variables on make's command line that the verb does not take, naming the nearest that it does.

    python3 scripts/make_variables.py "VERB …" "TAKEN …" NAME …

make takes any NAME=value and ignores it: `make env-gpu CDUA=11.8` would build for another CUDA version. The Makefile
decides what is refused; here it gets its words.
"""

import re
import sys
from difflib import get_close_matches
from pathlib import Path

MAKEFILE = Path(__file__).resolve().parent.parent / "Makefile"
EXISTING = re.compile(r"\b([A-Z][A-Z_]*)(?: *\?)?=")
"""Names that the Makefile sets, or that the comment of a verb has."""


def refusal(verbs: str, taken: set[str], name: str, makefile: str) -> str:
    """Return why `name` is refused, and what to do, in one line for make."""
    known = set(EXISTING.findall(makefile))
    listed = ", ".join(sorted(taken)) or "none"
    if name in known:
        return f"make {verbs} does not take {name}. Leave it out; it takes: {listed}"
    near = next(filter(None, (get_close_matches(name.upper(), sorted(some), 1) for some in (taken, known))), [])
    meant = f"Did you mean {near[0]}? " if near else ""
    return f"There is no variable {name!a}. {meant}make {verbs} takes: {listed}"


if __name__ == "__main__":
    print(refusal(sys.argv[1], set(sys.argv[2].split()), sys.argv[3], MAKEFILE.read_text(encoding="utf-8")))

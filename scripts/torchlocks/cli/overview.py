"""The text of `torchlocks --help`, made without importing click or any verb.

The sentence of a verb is the first of its function's docstring, which is read from the compiled module: importing the
modules of all verbs, and click, would take several times as long as the start of Python.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder

from torchlocks.cli import commands
from torchlocks.cli.verbs import HIDDEN, VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

_HEAD = """\
Usage: torchlocks [OPTIONS] COMMAND [ARGS]...

  Reproducible PyTorch environments: rendered, locked, installed and verified.

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit.

Commands:
"""
_HAS_DOCSTRING = 0x4000000
"""The flag of compiled functions with a docstring, from Python 3.14 on; before, the first constant is it, or None."""


def overview(width: int | None = None) -> str:
    """Return the help of the command: usage, options, and each verb with one sentence.

    `width` is the number of columns (default: those of the terminal, at most 78). The sentences are wrapped, not cut.
    """
    from textwrap import wrap

    width = width or _columns()
    verbs = [(name, sentence(name)) for name in VERBS if name not in HIDDEN]
    indent = max(len(name) for name, _ in verbs) + 2
    lines = []
    for name, text in verbs:
        first, *others = wrap(text, max(width - indent - 2, 10)) or [""]
        lines += [f"  {name:<{indent}}{first}".rstrip(), *(f"  {'':<{indent}}{line}" for line in others)]
    return _HEAD + "\n".join(lines) + "\n"


def sentence(verb: str) -> str:
    """Return the first sentence of a verb's docstring; empty where Python runs without docstrings."""
    module = f"{commands.__name__}.{VERBS[verb]}"
    spec = PathFinder.find_spec(module, commands.__path__)
    get_code = getattr(spec.loader, "get_code", None) if spec else None
    code: CodeType | None = get_code(module) if get_code else None
    words = next(_docstrings(code, verb.replace("-", "_")), "").partition("\n\n")[0].split() if code else []
    for number, word in enumerate(words, 1):
        if word.endswith(".") and not (number < len(words) and words[number][0].islower()):
            return " ".join(words[:number])
    return " ".join(words)


def _docstrings(module: CodeType, function: str) -> Iterator[str]:
    """Yield the docstring of the function of this name in a compiled module."""
    for each in module.co_consts:
        if getattr(each, "co_name", None) == function and each.co_consts:
            text = each.co_consts[0]
            if isinstance(text, str) and (sys.version_info < (3, 14) or each.co_flags & _HAS_DOCSTRING):
                yield text


def _columns() -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        wide = int(columns)
    else:
        try:
            wide = os.get_terminal_size(sys.stdout.fileno()).columns or 80
        except (OSError, ValueError, AttributeError):
            wide = 80
    return max(min(wide, 80) - 2, 50)

"""Which files a -k expression can select checks of, judged without importing them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from torchsuite.tiers import declared


def can_select(expression: str, file: Path) -> bool:
    """Whether pytest's -k `expression` can match a check of `file`.

    pytest looks for each word in the names of the file, of a check and of its parameters. Parameters are known only
    once a file is imported, but none of them contains `test_`: a word that does is of a file or of a check.
    """
    try:
        names = [file.name, *(entry.name for entry in declared(file))]
        return _possible(ast.parse(expression.strip(), mode="eval").body, [name.lower() for name in names])
    except (OSError, SyntaxError, ValueError):
        # pytest reports what is wrong with either.
        return True


def _possible(term: ast.expr, names: Sequence[str]) -> bool:
    if isinstance(term, ast.BoolOp):
        found = [_possible(each, names) for each in term.values]
        return any(found) if isinstance(term.op, ast.Or) else all(found)
    if isinstance(term, ast.Name) and "test_" in term.id.lower():
        return any(term.id.lower() in name for name in names)
    return True

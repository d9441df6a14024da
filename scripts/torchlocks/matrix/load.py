"""Read and validate `matrix.yml`; its JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchlocks.core.errors import MatrixError
from torchlocks.core.reading import read_text, refuse_costly_yaml
from torchlocks.core.values import from_plain
from torchlocks.matrix.model import Matrix

if TYPE_CHECKING:
    from pydantic import ValidationError


def load_matrix(path: Path) -> Matrix:
    """Read and validate `path`. Raises MatrixError with the file, the line and the key."""
    try:
        return parse_matrix(read_text(path), path)
    except OSError as error:
        raise MatrixError(f"Cannot read the matrix: {error.strerror}.", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise MatrixError(f"The matrix is not UTF-8 text (byte {error.start}).", where=str(path)) from None


def parse_matrix(text: str, path: Path) -> Matrix:
    """Parse and validate the text of a matrix; `path` is its name in errors. Raises MatrixError."""
    try:
        refuse_costly_yaml(text)
    except ValueError as error:
        raise MatrixError(f"The matrix is not valid YAML: {error}.", where=str(path)) from None
    return _valid(text) or _parse(text, path)


def _valid(text: str) -> Matrix | None:
    """Return the matrix of a valid text, read without ruamel.yaml and pydantic; None if anything is amiss.

    ruamel.yaml, which knows the lines of errors, and pydantic then decide.
    """
    from yaml import YAMLError

    from torchlocks.core.plain_yaml import load_plain

    try:
        return from_plain(Matrix, load_plain(text))
    except (YAMLError, ValueError, RecursionError):
        return None


def _parse(text: str, path: Path) -> Matrix:
    from pydantic import TypeAdapter, ValidationError
    from ruamel.yaml import YAML

    try:
        document = YAML(typ="rt").load(text)
    except Exception as error:
        # ruamel.yaml has TypeError, AttributeError and others for what it cannot construct.
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or (str(error).splitlines() or ["it is nested too deeply"])[0]
        raise MatrixError(f"The matrix is not valid YAML: {problem}.", where=where, fix="correct that line") from error
    if not isinstance(document, Mapping):
        raise MatrixError("The matrix is not a mapping of keys to values.", where=str(path))
    try:
        return TypeAdapter(Matrix).validate_python(_plain(document))
    except ValidationError as error:
        raise _explain(path, document, error) from error


def matrix_schema() -> str:
    """Return the JSON schema of `matrix.yml`, for editors; it is committed beside this module."""
    from pydantic import TypeAdapter

    return json.dumps(TypeAdapter(Matrix).json_schema(), indent=2) + "\n"


def _plain(node: Any) -> Any:
    """Convert ruamel's round-trip nodes to plain values (merge keys resolved)."""
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return node


def _explain(path: Path, document: Any, error: ValidationError) -> MatrixError:
    problems = []
    for entry in error.errors():
        keys = [str(key) for key in entry["loc"] if key != "[key]"]
        message = entry["msg"].removeprefix("Value error, ")
        if entry["type"] == "unexpected_keyword_argument":
            message = "no such key"
        problems.append(f"{path}:{_line_of(document, keys)}: {'.'.join(keys) or '(top level)'}: {message}")
    return MatrixError(
        "The matrix is not valid.",
        where=problems[0],
        fix="correct that key; scripts/torchlocks/matrix/matrix.schema.json describes them all",
        details="\n".join(f"  also:  {problem}" for problem in problems[1:]) or None,
    )


def _line_of(document: Any, keys: list[str]) -> int:
    """Return the line, from 1, of the deepest of `keys` that exists in the document."""
    line = 1
    node: Any = document
    for key in keys:
        marks: Any = getattr(node, "lc", None)
        if marks is None:
            break
        if isinstance(node, dict) and key in node:
            line = marks.key(key)[0] + 1 if key in (marks.data or {}) else line
            node = node[key]
        elif isinstance(node, list) and key.isdigit() and int(key) < len(node):
            line = marks.item(int(key))[0] + 1
            node = node[int(key)]
        else:
            break
    return int(line)

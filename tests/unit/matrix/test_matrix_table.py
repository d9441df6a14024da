"""The matrix on a terminal: it fits, and nothing of it is cut."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.table import matrix_table

MATRIX = load_matrix(Path(__file__).resolve().parents[3] / "matrix.yml")


def shown(width: int) -> list[str]:
    out = StringIO()
    Console(file=out, width=width).print(matrix_table(MATRIX))
    return out.getvalue().splitlines()


def test_every_row_is_one_line_of_80_columns() -> None:
    lines = shown(80)
    assert len(lines) == 1 + len(MATRIX.defaults())
    for line, target in zip(lines[1:], MATRIX.defaults(), strict=True):
        companions = [target.torchvision or "-", target.torchaudio or "-"]
        assert line.split()[:6] == [target.env, target.platform, target.pytorch, *companions, target.python]


def test_a_narrow_terminal_folds_and_cuts_nothing() -> None:
    narrow = "".join("".join(shown(45)).split())
    assert "…" not in narrow
    assert len(narrow) == len("".join("".join(shown(200)).split()))


def test_a_table_of_many_rows_is_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    few = shown(80)
    monkeypatch.setattr("torchlocks.matrix.table.MOST_FOLDED", 10)
    many = matrix_table(MATRIX)
    assert isinstance(many, str)
    assert [line.split() for line in many.splitlines()] == [line.split() for line in few]


def test_nor_is_what_goes_to_a_file() -> None:
    text = matrix_table(MATRIX, terminal=False)
    assert isinstance(text, str)
    assert [line.split() for line in text.splitlines()] == [line.split() for line in shown(80)]

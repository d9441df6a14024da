"""The matrix as people read it: a table on the terminal, and the table in the README."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchlocks.matrix.model import Matrix, Target

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("environment", "platform", "torch", "Python", "CUDA", "NVIDIA driver", "glibc", "GPU architectures")


def matrix_table(matrix: Matrix) -> Table:
    """A row an environment and platform, for 80 columns; on a narrower terminal cells fold, and are never cut."""
    from rich.table import Column, Table

    # The whole list of architectures is in the README; a terminal is narrow.
    headers = (*COLUMNS[:5], "driver", "glibc", "architectures")
    table = Table(
        *(Column(header, overflow="fold") for header in headers), box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for target in matrix.targets():
        *cells, _ = _cells(target)
        ends = "-".join(dict.fromkeys((target.architectures[0], target.architectures[-1]))) if target.cuda else ""
        table.add_row(*cells, ends + (" +PTX" if target.ptx else ""))
    return table


def matrix_markdown(matrix: Matrix) -> str:
    """The same rows as a Markdown table; the README holds it, and a test compares."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(target) for target in matrix.targets())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(target: Target) -> tuple[str, ...]:
    return (
        target.env,
        target.platform,
        target.pytorch,
        target.python,
        target.cuda or "",
        f">= {target.driver.floor}" if target.driver else "",
        f">= {target.glibc}" if target.glibc else "",
        " ".join(target.architectures) + (" +PTX" if target.ptx else ""),
    )

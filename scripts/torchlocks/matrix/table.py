"""The matrix as tables: on the terminal, in `docs/environments.md`, and a summary in the README."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchlocks.matrix.model import Matrix, Target

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("environment", "platform", "torch", "Python", "CUDA", "NVIDIA driver", "glibc", "GPU architectures")


def matrix_table(matrix: Matrix) -> Table:
    """Return a table for 80 columns with a row for each environment and platform; narrower terminals fold cells."""
    from rich.table import Column, Table

    # docs/environments.md has all architectures; a terminal is too narrow for them.
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
    """Return the same rows as a Markdown table with all architectures, for `docs/environments.md`."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(target) for target in matrix.targets())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def summary_markdown(matrix: Matrix) -> str:
    """Return a Markdown table for the README: a row for each environment, with torch and Python by platform."""
    rows: list[tuple[str, ...]] = [("environment", "CUDA", "NVIDIA driver", *matrix.platforms)]
    rows.append(("---",) * len(rows[0]))
    by_env: dict[str, dict[str, Target]] = {}
    for target in matrix.targets():
        by_env.setdefault(target.env, {})[target.platform] = target
    for env, targets in by_env.items():
        cuda = next(iter(targets.values())).cuda
        versions = [f"{t.pytorch} (py{t.python})" if (t := targets.get(name)) else "" for name in matrix.platforms]
        rows.append((env, cuda or "", f">= {matrix.drivers[cuda].linux.floor}" if cuda else "", *versions))
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

"""The matrix as tables: on the terminal, in `docs/environments.md`, and a summary in the README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from torchlocks.core.printing import aligned
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    *("environment", "platform", "torch", "torchvision", "torchaudio", "Python", "CUDA"),
    *("NVIDIA driver", "glibc", "GPU architectures"),
)


NO_EVIDENCE = "none yet"

MOST_FOLDED = 300
"""Rows of a table whose cells are folded to the width of the terminal."""


def matrix_table(matrix: Matrix, *, variants: bool = False, terminal: bool = True) -> Table | str:
    """Return a table for 80 columns with a row for each environment and platform; narrower terminals fold cells.

    It has the default of each row, and with `variants` these as well. More than `MOST_FOLDED` rows are returned as
    text with wider columns, since rich takes milliseconds for each row; so is what goes to no `terminal`.
    """
    # docs/environments.md has all architectures; a terminal is too narrow for them.
    headers = ("env", *COLUMNS[1:3], "vision", "audio", *COLUMNS[5:7], "driver", "glibc", "GPUs")
    rows = list(_short_rows(matrix, variants=variants))
    if len(rows) > MOST_FOLDED or not terminal:
        return aligned([headers, *rows], gap=1)
    from rich.table import Column, Table

    table = Table(
        *(Column(header, overflow="fold") for header in headers), box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for row in rows:
        table.add_row(*row)
    return table


def _short_rows(matrix: Matrix, *, variants: bool) -> Iterator[tuple[str, ...]]:
    for target in matrix.targets() if variants else matrix.defaults():
        *cells, _ = _cells(target)
        ends = "-".join(dict.fromkeys((target.architectures[0], target.architectures[-1]))) if target.cuda else ""
        short = [cell.removeprefix(">= ").split(":")[0].replace("none", "-") for cell in cells]
        yield *short, ends + ("+" if target.ptx else "")


def matrix_markdown(matrix: Matrix, proven: Mapping[str, str] | None = None) -> str:
    """Return the same rows as a Markdown table with all architectures, for `docs/environments.md`.

    `proven` has a line about the evidence by `env/platform`, where there is some.
    """
    rows = [(*COLUMNS, "evidence"), ("---",) * (len(COLUMNS) + 1)]
    rows += [
        (*_cells(target), (proven or {}).get(f"{target.env}/{target.platform}", NO_EVIDENCE))
        for target in matrix.targets()
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def summary_markdown(matrix: Matrix, proven: Mapping[str, str] | None = None) -> str:
    """Return a Markdown table for the README: a row for each default, with torch and Python by platform.

    `+ vision` and `+ audio` mark environments that have torchvision and torchaudio. `proven` has a line about the
    evidence by environment, where there is some.
    """
    rows: list[tuple[str, ...]] = [("environment", "CUDA", "NVIDIA driver", *matrix.platforms, "evidence")]
    rows.append(("---",) * len(rows[0]))
    by_env: dict[str, dict[str, Target]] = {}
    for target in matrix.defaults():
        by_env.setdefault(target.env, {})[target.platform] = target
    for env, targets in by_env.items():
        cuda = next(iter(targets.values())).cuda
        versions = [_versions(targets[name]) if name in targets else "" for name in matrix.platforms]
        rows.append(
            (
                env,
                cuda or "",
                f">= {matrix.drivers[cuda].linux.floor}" if cuda else "",
                *versions,
                (proven or {}).get(env, NO_EVIDENCE),
            )
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_table(text: str, table: str) -> str:
    """Return a Markdown text where `table` replaces the table that has the same columns; unchanged without one."""
    lines, header = text.splitlines(keepends=True), table.splitlines(keepends=True)[0]
    if header not in lines:
        return text
    start = lines.index(header)
    end = next((n for n in range(start, len(lines)) if not lines[n].startswith("|")), len(lines))
    return "".join([*lines[:start], table, *lines[end:]])


def _versions(target: Target) -> str:
    companions = (" + vision" if target.torchvision else "") + (" + audio" if target.torchaudio else "")
    return f"{target.pytorch}{companions} (py{target.python})"


def _cells(target: Target) -> tuple[str, ...]:
    return (
        target.env,
        target.platform,
        target.pytorch,
        target.torchvision or (f"none: {target.lacks}" if target.lacks else "none"),
        target.torchaudio or "none",
        target.python,
        target.cuda or "",
        f">= {target.driver.floor}" if target.driver else "",
        f">= {target.glibc}" if target.glibc else "",
        " ".join(target.architectures) + (" +PTX" if target.ptx else ""),
    )

"""Write the tables of the README and of docs/environments.md, which show the matrix and its evidence."""

from __future__ import annotations

from pathlib import Path

from torchlocks.core.errors import MissingFileError
from torchlocks.core.files import write_whole
from torchlocks.core.layout import Layout
from torchlocks.evidence.summary import all_proofs, by_environment
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.table import matrix_markdown, summary_markdown, with_table


def tables(layout: Layout, matrix: Matrix) -> dict[Path, str]:
    """Return the text that each table should have, by the file that it is in."""
    proofs = all_proofs(layout)
    return {
        layout.root / "README.md": summary_markdown(matrix, by_environment(proofs)),
        layout.root / "docs" / "environments.md": matrix_markdown(
            matrix, {cell: each.text() for cell, each in proofs.items()}
        ),
    }


def update_tables(layout: Layout, matrix: Matrix) -> list[Path]:
    """Write the tables anew and return the files that changed; a file without such a table is left alone.

    Raises MissingFileError if a file cannot be written.
    """
    changed = []
    for path, table in tables(layout, matrix).items():
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if (new := with_table(text, table)) == text:
            continue
        try:
            write_whole(path, new)
        except OSError as error:
            raise MissingFileError(f"The table cannot be written: {error.strerror}.", where=str(path)) from None
        changed.append(path)
    return changed

"""Write the expected files anew: `make golden`, then look at what `git diff` shows."""

from __future__ import annotations

from pathlib import Path

from torchlocks.core.layout import Layout
from torchlocks.evidence.model import evidence_schema
from torchlocks.matrix.load import load_matrix, matrix_schema
from torchlocks.matrix.render import render
from torchlocks.matrix.target import Target

LAYOUT = Layout(Path(__file__).resolve().parents[2])
GOLDEN = Path(__file__).with_name("golden")
SCHEMA = LAYOUT.root / "scripts" / "torchlocks" / "matrix" / "matrix.schema.json"
EVIDENCE_SCHEMA = LAYOUT.root / "scripts" / "torchlocks" / "evidence" / "evidence.schema.json"


def golden_file(target: Target) -> Path:
    """Where the expected rendering of a target is kept."""
    return GOLDEN / f"{target.env}_{target.platform}.yml"


def main() -> None:
    for old in GOLDEN.glob("*.yml"):
        old.unlink()
    for target in load_matrix(LAYOUT.matrix).targets():
        golden_file(target).write_text(render(LAYOUT.root / target.template, target), encoding="utf-8")
    SCHEMA.write_text(matrix_schema(), encoding="utf-8")
    EVIDENCE_SCHEMA.write_text(evidence_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()

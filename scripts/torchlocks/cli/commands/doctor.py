"""The verb doctor: compatibility of environments with this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from torchlocks.cli.commands.shared import print_rich


@click.command()
@click.option(
    "--host",
    "record",
    type=click.Path(path_type=Path),
    default=None,
    help="Diagnose another machine: a file that `torchlocks doctor --json` wrote there.",
)
@click.option(
    "--with",
    "needed",
    type=click.Choice(["torchvision", "torchaudio"]),
    multiple=True,
    help="Check the environments that have this package, including variants; may be given twice.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON, and nothing else.")
def doctor(record: Path | None, needed: tuple[str, ...], as_json: bool) -> None:
    """List which environments run on this machine, why the others do not, and what to do."""
    from torchlocks.core.layout import find_layout
    from torchlocks.evidence.summary import all_proofs
    from torchlocks.host.detect import detect_host
    from torchlocks.host.doctor import diagnose, limits_of_locks
    from torchlocks.host.doctor_report import diagnosis_json, diagnosis_lines, diagnosis_text
    from torchlocks.host.record import read_host
    from torchlocks.install.installed import installed_environments
    from torchlocks.lockfile.formats import CONDA_LOCK
    from torchlocks.matrix.load import load_matrix

    layout = find_layout()
    locked = {path.parent.name for path in layout.locks.glob(f"*/{CONDA_LOCK}")}
    host = read_host(record) if record else detect_host()
    limits = limits_of_locks(layout.locks, host.platform)
    installed = {} if record else installed_environments(layout, host.platform)
    proven = {
        cell.partition("/")[0]: proofs.text()
        for cell, proofs in all_proofs(layout).items()
        if cell.endswith(f"/{host.platform}")
    }
    matrix = load_matrix(layout.matrix)
    diagnosis = diagnose(matrix, host, locked, limits=limits, needed=needed, installed=installed, proven=proven)
    if as_json:
        click.echo(diagnosis_json(diagnosis))
    elif not sys.stdout.isatty():
        print(diagnosis_lines(diagnosis))
    else:
        print_rich(diagnosis_text(diagnosis))

"""The verb evidence: make records out of reports, and show them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from torchlocks.evidence.model import Client

if TYPE_CHECKING:
    from torchlocks.evidence.summary import Proof


@click.group()
def evidence() -> None:
    """Evidence: which lock was proven on which kind of machine."""


@evidence.command()
@click.argument("reports", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="REPORT...")
@click.option(
    "--client",
    type=click.Choice(get_args(Client)),
    default=None,
    help="Who installed it (default: as the report says).",
)
@click.option("--account", default=None, help="Name this GitHub account as who ran it (default: nobody).")
@click.option("--key", type=click.Path(path_type=Path), default=None, help="Sign the record with this SSH key.")
def add(reports: tuple[Path, ...], client: Client | None, account: str | None, key: Path | None) -> None:
    """Make evidence out of reports (reports/ENV.json, or folders of them) on committed locks.

    A record has the kind of machine and the results of the required checks, and nothing that identifies the machine.
    """
    from torchlocks.core.layout import find_layout
    from torchlocks.evidence.record import record_of
    from torchlocks.evidence.store import write_record
    from torchlocks.evidence.tables import update_tables
    from torchlocks.matrix.load import load_matrix

    layout = find_layout()
    layout.require_checkout("evidence add")
    # All are read before anything is written.
    found = [record_of(layout, path, client=client, account=account) for path in _files(reports)]
    for record in found:
        path = write_record(layout, record)
        if path is None:
            click.echo(f"kept the newer evidence/{record.name}")
            continue
        click.echo(f"wrote {path.relative_to(layout.root).as_posix()}")
        if key is not None:
            from torchlocks.evidence.signing import sign_record

            click.echo(f"wrote {sign_record(path, key.expanduser()).relative_to(layout.root).as_posix()}")
    for path in update_tables(layout, load_matrix(layout.matrix)):
        click.echo(f"wrote {path.relative_to(layout.root).as_posix()}")


def _files(reports: tuple[Path, ...]) -> list[Path]:
    """Return the named reports, and those in named folders. Raises MissingFileError for a folder without any."""
    from torchlocks.core.errors import MissingFileError

    found: list[Path] = []
    for named in reports:
        inside = sorted(named.rglob("*.json")) if named.is_dir() else [named]
        if not inside:
            raise MissingFileError("There is no report in this folder.", where=str(named), fix="name reports/ENV.json")
        found += inside
    return found


@evidence.command("list")
@click.option("--env", "env_name", default=None, help="One environment (default: all).")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, and nothing else.")
def list_(env_name: str | None, as_json: bool) -> None:
    """List what is proven, by environment and platform."""
    from torchlocks.core.layout import find_layout
    from torchlocks.evidence.summary import all_proofs

    proofs = {
        cell: each for cell, each in all_proofs(find_layout()).items() if env_name in (None, cell.partition("/")[0])
    }
    if as_json:
        import json

        told = {cell: [_as_data(proof) for proof in each.proofs] for cell, each in proofs.items()}
        click.echo(json.dumps(told, indent=2))
        return
    for cell, each in proofs.items():
        click.echo(f"{cell}: {each.text()}")
    if not proofs:
        click.echo("there is no evidence" + (f" on {env_name}" if env_name else ""))


def _as_data(proof: Proof) -> dict[str, object]:
    record = proof.record.model_dump(mode="json", exclude={"packages", "required"})
    return {**record, "gaps": list(proof.record.gaps), "current": proof.current, "differing": proof.differing or 0}


@evidence.command()
@click.argument("record", type=click.Path(path_type=Path), metavar="RECORD")
def show(record: Path) -> None:
    """Print one record: what was proven, where, and what was not."""
    from torchlocks.evidence.store import read_record
    from torchlocks.evidence.summary import age, proven_text

    found = read_record(record)
    machine = found.machine
    kinds = [machine.system, machine.architecture, f"glibc {machine.glibc}" if machine.glibc else "", *machine.gpus]
    by = found.workflow.url if found.workflow else found.account or "not named"
    results = [each.result for each in found.required]
    for name, value in (
        ("environment", f"{found.env} on {found.platform}, {len(found.packages)} packages"),
        ("lock", found.lock_sha256),
        ("proven", proven_text([found])),
        ("machine", ", ".join(filter(None, [*kinds, f"driver {machine.driver}" if machine.driver else ""]))),
        ("installed by", found.client),
        ("suite", f"torchlocks {found.suite}, {found.passed} checks passed, {found.skipped} skipped"),
        (
            "required",
            f"{results.count('passed')} of {len(results)} passed, {results.count('not-applicable')} not applicable",
        ),
        ("not proven", ", ".join(found.gaps) or "nothing of the required set"),
        ("when", f"{found.date:%Y-%m-%d}, {age(found.date)}"),
        ("run by", by),
    ):
        click.echo(f"{name + ':':14} {value}")


@evidence.command()
def schema() -> None:
    """Print the JSON schema of records."""
    from torchlocks.evidence.model import evidence_schema

    click.echo(evidence_schema(), nl=False)

"""The verb evidence: make records out of reports, and show them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from torchlocks.evidence.clients import Client

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
    help="Who installed it (default: the client in the report).",
)
@click.option("--account", default=None, help="Name this GitHub account as who ran it (default: nobody).")
@click.option("--key", type=click.Path(path_type=Path), default=None, help="Sign the record with this SSH key.")
@click.option("--passing", is_flag=True, help="Leave out reports that prove nothing, instead of refusing all.")
@click.option(
    "--body", type=click.Path(path_type=Path), default=None, help="Write the text of a pull request, in Markdown."
)
def add(
    reports: tuple[Path, ...],
    client: Client | None,
    account: str | None,
    key: Path | None,
    passing: bool,
    body: Path | None,
) -> None:
    """Make evidence out of reports (reports/ENV.json, or folders of them) on committed locks.

    A record has the kind of machine and the results of the required checks, and nothing that identifies the machine.
    """
    from torchlocks.core.errors import EvidenceError
    from torchlocks.core.files import write_whole
    from torchlocks.core.layout import find_layout
    from torchlocks.evidence.body import pull_request_body
    from torchlocks.evidence.record import record_of
    from torchlocks.evidence.store import write_record
    from torchlocks.evidence.tables import update_tables
    from torchlocks.matrix.load import load_matrix

    layout = find_layout()
    layout.require_checkout("evidence add")
    # All are read before anything is written.
    found, refused = [], dict[str, str]()
    for path in _files(reports):
        try:
            found.append(record_of(layout, path, client=client, account=account))
        except EvidenceError as error:
            if not passing:
                raise
            refused[path.name] = error.what
            click.echo(f"left out {path}: {error.what}", err=True)
    for record in found:
        written = write_record(layout, record)
        if written is None:
            click.echo(f"kept the newer evidence/{record.name}")
            continue
        click.echo(f"wrote {written.relative_to(layout.root).as_posix()}")
        if key is not None:
            from torchlocks.evidence.signing import sign_record

            click.echo(f"wrote {sign_record(written, key.expanduser()).relative_to(layout.root).as_posix()}")
    for path in update_tables(layout, load_matrix(layout.matrix)):
        click.echo(f"wrote {path.relative_to(layout.root).as_posix()}")
    if body is not None:
        body.parent.mkdir(parents=True, exist_ok=True)
        write_whole(body, pull_request_body(found, refused))


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

        data = {cell: [_as_data(proof) for proof in each.proofs] for cell, each in proofs.items()}
        click.echo(json.dumps(data, indent=2))
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


@evidence.command()
@click.option("--since", default=None, help="Only locks that differ from this commit, tag or branch.")
@click.option("--client", "clients", multiple=True, type=click.Choice(get_args(Client)), help="May be repeated.")
@click.option(
    "--max-age", type=click.IntRange(0), default=None, help="Leave out what a workflow has proven in so many days."
)
@click.option("--most", type=click.IntRange(1), default=6, show_default=True, help="Environments of one job.")
@click.option("--indent", is_flag=True, help="Print it for people.")
def plan(since: str | None, clients: tuple[Client, ...], max_age: int | None, most: int, indent: bool) -> None:
    """Print the jobs that prove all committed locks, as JSON; in a workflow, also as the outputs matrix and jobs."""
    import json
    import os

    from torchlocks.core.layout import find_layout
    from torchlocks.matrix.load import load_matrix
    from torchlocks.workflow.shards import CLIENTS, as_matrix, plan_shards

    layout = find_layout()
    shards = plan_shards(
        layout,
        load_matrix(layout.matrix),
        clients=clients or CLIENTS,
        # A workflow passes an empty value where there is nothing to compare with.
        since=since or None,
        max_age_days=max_age,
        most=most,
    )
    text = json.dumps(as_matrix(shards), indent=2 if indent else None)
    if os.environ.get("GITHUB_OUTPUT"):
        from torchlocks.cli.action import write_outputs

        write_outputs(os.environ, matrix=text, jobs=str(len(shards)))
    click.echo(text)


@evidence.command()
@click.argument("envs", nargs=-1, required=True, metavar="ENV...")
@click.option("--client", type=click.Choice(get_args(Client)), default="torchlocks", show_default=True)
@click.option("--keep", is_flag=True, help="Leave the environments in build/proof.")
def prove(envs: tuple[str, ...], client: Client, keep: bool) -> None:
    """Install committed locks from their channels by one client, and run the suite in each.

    The reports are in reports/proof/CLIENT.
    """
    import os

    from torchlocks.cli.action import write_summary
    from torchlocks.cli.console import make_progress
    from torchlocks.core.errors import VerificationError
    from torchlocks.core.layout import find_layout
    from torchlocks.core.printing import printable
    from torchlocks.host.detect import host_platform
    from torchlocks.matrix.load import load_matrix
    from torchlocks.workflow.prove import prove as prove_all

    layout = find_layout()
    # A workflow passes all names in one word.
    names = [name for word in envs for name in word.split()]
    found = prove_all(layout, load_matrix(layout.matrix), names, host_platform(), client, make_progress(), keep=keep)
    for each in found:
        click.echo(printable(each.line))
        if each.error is not None and each.error.details:
            click.echo(each.error.details, err=True)
    write_summary(os.environ, "".join(f"- {printable(each.line)}\n" for each in found))
    if failed := [each.env for each in found if not each.ok]:
        raise VerificationError(
            f"{len(failed)} of {len(found)} environments were not proven: {', '.join(failed)}.",
            where=f"{layout.reports / 'proof' / client}",
            fix="see the lines above, and the reports",
        )

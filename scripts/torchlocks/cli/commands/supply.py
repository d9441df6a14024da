"""Verbs on the supply chain: signatures, attestations, bills of materials, licences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from torchlocks.cli.commands.shared import (
    locked_options,
    mirror_option,
    note_environment,
    output_option,
    record_source,
    write_or_print,
)

if TYPE_CHECKING:
    from torchlocks.export.environment import LockedTarget
    from torchlocks.export.licences import PackageLicence


@click.command()
@click.argument("locks", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="LOCK...")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    default=Path("~/.ssh/id_ed25519"),
    show_default=True,
    help="Private key, or a public one whose private key is in the SSH agent.",
)
def sign(locks: tuple[Path, ...], key: Path) -> None:
    """Sign lockfiles, or all in a folder, or evidence records, with an SSH key: writes LOCK.sig beside each."""
    from torchlocks.evidence.signing import is_record, sign_record
    from torchlocks.export.signatures import sign as sign_one
    from torchlocks.export.signatures import signable

    for path in [file for named in locks for file in signable(named)]:
        signed = sign_record(path, key.expanduser()) if is_record(path) else sign_one(path, key.expanduser())
        click.echo(f"wrote {signed}")


@click.command()
@click.argument("locks", nargs=-1, required=True, metavar="LOCK...")
@click.option(
    "--allowed-signers", "allowed", type=click.Path(path_type=Path), required=True, help="Who may sign (ssh-keygen)."
)
@click.option("--signer", default=None, help="The one identity that may have signed (default: any in the file).")
def verify_signature(locks: tuple[str, ...], allowed: Path, signer: str | None) -> None:
    """Verify the signatures of lockfiles (paths or URLs), of all in a folder, or of evidence records."""
    from torchlocks.core.printing import printable
    from torchlocks.export.signatures import open_signed_lock, signable

    names = [str(file) for name in locks for file in ([name] if "://" in name else signable(Path(name)))]
    from torchlocks.evidence.signing import is_record, verify_record

    for name in names:
        if "://" not in name and is_record(Path(name)):
            who = verify_record(Path(name), allowed, signer=signer)
        else:
            _, who = open_signed_lock(name, allowed, signer=signer)
        click.echo(printable(f"{name}: signed by {who.identity} ({who.key})"))


@click.command()
@locked_options
@click.option("--snapshot", type=click.Path(path_type=Path), default=None, help="Folder of repodata for the records.")
@mirror_option
@click.option("--identity", default=None, help="Required signer: the URL of the workflow in the certificate.")
@click.option("--issuer", default=None, help="Required issuer of the certificate, as a URL.")
@click.option(
    "--trusted-root",
    default=None,
    help="A trusted_root.json, or `embedded` for py-rattler's own (default: the newest, from Sigstore).",
)
@click.option("--require", is_flag=True, help="Exit with 63 also when a package has no attestation.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON, and nothing else.")
def attestations(
    name: str,
    platform: str | None,
    environment: str | None,
    snapshot: Path | None,
    mirror: str | None,
    identity: str | None,
    issuer: str | None,
    trusted_root: str | None,
    require: bool,
    as_json: bool,
) -> None:
    """Verify the Sigstore attestations of a lock's packages, where their channels have them."""
    import json
    from dataclasses import asdict

    from torchlocks.cli.console import make_progress
    from torchlocks.core.errors import AttestationError
    from torchlocks.export.attestations import Publisher, verify_attestations
    from torchlocks.export.environment import find_locked

    source = record_source(snapshot, mirror=mirror)
    locked = find_locked(name, platform, environment)
    note_environment(locked.lock)
    found = verify_attestations(
        locked,
        source,
        Publisher(identity=identity, issuer=issuer),
        trusted_root,
        make_progress(quiet=as_json),
    )
    verified = [each for each in found if each.signer]
    wrong = [each for each in found if each.problem]
    absent = len(found) - len(verified) - len(wrong)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        for each in verified:
            click.echo(f"{each.package}: attested by {each.signer}")
        click.echo(f"{len(verified)} of {len(found)} packages attested, {absent} without, {len(wrong)} not verified")
    if wrong or (require and absent):
        raise AttestationError(
            f"{len(wrong)} of {len(found)} packages have attestations that do not verify."
            if wrong
            else f"{absent} of {len(found)} packages have no attestation.",
            where=f"{locked.name} on {locked.platform}",
            fix="do not install what does not verify; leave out --require where a channel has no attestations",
            details="\n".join(f"  {each.package}: {each.problem}" for each in wrong) or None,
        )


@click.command()
@locked_options
@click.option("--format", "form", type=click.Choice(["cyclonedx", "spdx"]), default="cyclonedx", show_default=True)
@output_option("File to write (default: print).")
def sbom(name: str, platform: str | None, environment: str | None, form: str, output: Path | None) -> None:
    """Write the bill of materials of a lock: CycloneDX 1.6 or SPDX 2.3, as JSON."""
    from torchlocks.export.environment import find_locked
    from torchlocks.export.sbom import cyclonedx, spdx

    locked = find_locked(name, platform, environment)
    note_environment(locked.lock)
    write_or_print(cyclonedx(locked) if form == "cyclonedx" else spdx(locked), output)


@click.command()
@locked_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else.")
@click.option(
    "--fail-on",
    multiple=True,
    type=click.Choice(["proprietary", "copyleft", "weak-copyleft", "unknown"]),
    help="Exit with 62 when there are packages of this kind; may be repeated.",
)
def licences(name: str, platform: str | None, environment: str | None, as_json: bool, fail_on: tuple[str, ...]) -> None:
    """Report the licences of a lock's packages, the most restrictive kinds first."""
    import json

    from torchlocks.core.errors import LicenceError
    from torchlocks.core.quantities import shortened
    from torchlocks.core.urls import strip_credentials
    from torchlocks.export.environment import find_locked
    from torchlocks.export.licences import licences_of
    from torchlocks.export.sbom import pip_packages

    locked = find_locked(name, platform, environment)
    note_environment(locked.lock)
    found = licences_of(locked.packages)
    others = tuple(package.requirement for package in pip_packages(locked))
    if as_json:
        document = {
            "environment": locked.name,
            "platform": locked.platform,
            "lock_sha256": locked.lock.sha256,
            "packages": [
                {
                    "name": each.package.name,
                    "version": each.package.version,
                    "channel": strip_credentials(each.package.channel),
                    "licence": each.licence.text,
                    "spdx": each.licence.expression,
                    "kind": each.licence.kind,
                }
                for each in found
            ],
            "pip": list(others),
        }
        click.echo(json.dumps(document, indent=2))
    else:
        _print_licences(locked, found)
    if found and not any(each.licence.text for each in found):
        kind = {"explicit": "An explicit file", "conda-lock": "A conda-lock.yml"}.get(locked.lock.kind, "This lock")
        click.echo(f"note: {kind} has no licences: use the pixi.lock, or copy it beside a conda-lock.yml", err=True)
    if others:
        click.echo(f"note: left to pip, so that their licences are not known: {shortened(others)}", err=True)
    failing = [each.package.name for each in found if each.licence.kind in fail_on]
    failing += others if "unknown" in fail_on else ()
    if failing:
        raise LicenceError(
            f"{len(failing)} of {len(found) + len(others)} packages have a licence that is {' or '.join(fail_on)}: "
            + ", ".join(failing[:8])
            + (" …" if len(failing) > 8 else "."),
            where=f"{locked.name} on {locked.platform}",
            fix="see `torchlocks why PACKAGE` for what needs them",
        )


def _print_licences(locked: LockedTarget, found: tuple[PackageLicence, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    from torchlocks.export.licences import KINDS, MEANING

    console = Console(highlight=False)
    console.print(f"{locked.name} on {locked.platform}: {len(found)} packages", markup=False)
    if not any(each.licence.text for each in found):
        return
    for kind in reversed(KINDS):
        mine = [each for each in found if each.licence.kind == kind]
        if not mine:
            continue
        console.print(f"\n{kind}: {len(mine)} packages; {MEANING[kind]}", style="bold", markup=False)
        by_text: dict[str, list[str]] = {}
        for each in mine:
            text = each.licence.expression or each.licence.text or "(the record names none)"
            by_text.setdefault(text, []).append(f"{each.package.name} {each.package.version}")
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(overflow="fold", ratio=1)
        table.add_column(overflow="fold", ratio=2)
        for text, names in sorted(by_text.items()):
            table.add_row(text, ", ".join(names))
        console.print(table)

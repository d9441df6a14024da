"""Where packages come from and who vouches for them: signatures, licences, bills of materials, attestations."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("locks", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="LOCK...")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    default=Path("~/.ssh/id_ed25519"),
    show_default=True,
    help="Private key, or a public one whose private half the SSH agent holds.",
)
def sign(locks: tuple[Path, ...], key: Path) -> None:
    """Sign lockfiles, or all in a folder, with an SSH key: writes LOCK.sig beside each."""
    from torchlocks.signatures import sign as sign_one
    from torchlocks.signatures import signable

    for path in [file for named in locks for file in signable(named)]:
        click.echo(f"wrote {sign_one(path, key.expanduser())}")


@click.command()
@click.argument("locks", nargs=-1, required=True, metavar="LOCK...")
@click.option(
    "--allowed-signers", "allowed", type=click.Path(path_type=Path), required=True, help="Who may sign (ssh-keygen)."
)
@click.option("--signer", default=None, help="The one identity that may have signed (default: any in the file).")
def verify_signature(locks: tuple[str, ...], allowed: Path, signer: str | None) -> None:
    """Verify the signatures of lockfiles (paths or URLs), or of all in a folder."""
    from torchlocks.signatures import open_signed_lock, signable

    names = [str(file) for name in locks for file in ([name] if "://" in name else signable(Path(name)))]
    for name in names:
        _, who = open_signed_lock(name, allowed, signer=signer)
        click.echo(f"{name}: signed by {who.identity} ({who.key})")

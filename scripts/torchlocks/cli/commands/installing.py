"""The verbs install and bundle: any lock into any prefix, with and without a network."""

from __future__ import annotations

from pathlib import Path

import click

from torchlocks.cli.commands.shared import channel_option, environment_option, mirror_option, note_environment


@click.command()
@click.argument("lock_name", metavar="LOCK")
@click.argument("prefix", required=False, type=click.Path(path_type=Path))
@click.option("--platform", default=None, help="Platform to install (default: this machine's).")
@environment_option
@click.option("--download-only", is_flag=True, help="Download the packages into the cache, and install nothing.")
@click.option("--offline", is_flag=True, help="Use the package cache only.")
@mirror_option
@click.option("--allow-md5", is_flag=True, help="Accept packages for which the lock has no sha256.")
@click.option("--force", is_flag=True, help="Install again even if it is up to date.")
@click.option(
    "--verify-signature",
    "allowed",
    type=click.Path(path_type=Path),
    default=None,
    metavar="ALLOWED_SIGNERS",
    help="Install only if LOCK.sig is the signature of a signer in this file.",
)
@click.option("--signer", default=None, help="The one identity that may have signed (with --verify-signature).")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON, and nothing else.")
def install(
    lock_name: str,
    prefix: Path | None,
    platform: str | None,
    environment: str | None,
    download_only: bool,
    offline: bool,
    mirror: str | None,
    allow_md5: bool,
    force: bool,
    allowed: Path | None,
    signer: str | None,
    as_json: bool,
) -> None:
    """Install LOCK (a conda-lock.yml, explicit file or pixi.lock; a path or a URL) into PREFIX."""
    import json

    from torchlocks.cli.console import make_progress
    from torchlocks.core.errors import InstallError
    from torchlocks.host.detect import host_platform
    from torchlocks.install.fetch import download_only as download
    from torchlocks.install.fetch_options import FetchOptions
    from torchlocks.install.installer import InstallOptions, install_environment, warn_of_space
    from torchlocks.install.provenance import Origin
    from torchlocks.lockfile.open import open_lock
    from torchlocks.solve.repodata import mirrors

    here = host_platform()
    platform = platform or here
    progress = make_progress(quiet=as_json)
    if allowed is not None:
        from torchlocks.export.signatures import open_signed_lock

        lock, who = open_signed_lock(lock_name, allowed, signer=signer, environment=environment)
        progress.say(f"{lock_name} is signed by {who.identity} ({who.key})")
    elif signer is not None:
        raise click.UsageError("--signer goes with --verify-signature ALLOWED_SIGNERS")
    else:
        lock = open_lock(lock_name, environment)
    if not as_json:
        note_environment(lock)
    lock, platform = lock.on(platform), lock.subdir(platform)
    fetch = FetchOptions(offline=offline, allow_md5=allow_md5, mirrors=mirrors(mirror))
    if download_only:
        folders = download(lock, platform, fetch, progress=progress)
        done = f"{len(folders)} packages for {platform} are in the package cache"
        click.echo(json.dumps({"platform": platform, "packages": len(folders)}) if as_json else done)
        return
    if prefix is None:
        raise click.UsageError("name the PREFIX to install into, or use --download-only")
    if platform != here:
        raise InstallError(
            f"An environment for {platform} cannot be installed on this machine ({here}).",
            fix="use --download-only to fetch its packages, or leave --platform out",
        )
    warn_of_space(prefix, progress)
    result = install_environment(
        lock,
        platform,
        prefix,
        provenance=Origin(name=prefix.name, channel="lock"),
        options=InstallOptions(fetch=fetch, force=force),
        progress=progress,
    )
    if as_json:
        click.echo(json.dumps({"prefix": str(result.prefix), "changed": result.changed, "packages": result.packages}))
        return
    state = f"installed {result.packages} packages" if result.changed else "up to date, nothing to do"
    click.echo(f"{result.prefix}: {state}")


@click.command()
@click.argument("env_name", required=False)
@click.option("--platform", default=None, help="Platform of the packages; any (default: this machine's).")
@channel_option
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="File to write.")
@click.option("--portable", is_flag=True, help="Repack the packages for machines that cannot read Zstandard.")
@click.option("--offline", is_flag=True, help="Download nothing: for packages of the local channel or the cache.")
@mirror_option
@click.option("--unpack", type=click.Path(path_type=Path), default=None, help="Unpack a bundle into the package cache.")
def bundle(
    env_name: str | None,
    platform: str | None,
    channel: str,
    output: Path | None,
    portable: bool,
    offline: bool,
    mirror: str | None,
    unpack: Path | None,
) -> None:
    """Write one file that installs an environment without a network, or unpack one."""
    from torchlocks.bundle.unpack import unpack_bundle
    from torchlocks.bundle.write import bundle_environment
    from torchlocks.cli.console import make_progress
    from torchlocks.core.errors import MissingFileError
    from torchlocks.core.layout import find_layout
    from torchlocks.host.detect import host_platform
    from torchlocks.install.fetch_options import FetchOptions
    from torchlocks.solve.repodata import mirrors

    if (env_name is None) == (unpack is None):
        raise click.UsageError("name an environment to bundle, or a bundle to --unpack")
    fetch = FetchOptions(offline=offline, mirrors=mirrors(mirror or None))
    if unpack is not None:
        try:
            local_locks = find_layout().local_locks
        except MissingFileError:
            local_locks = None
        found = unpack_bundle(unpack, fetch=fetch, progress=make_progress(), local_locks=local_locks)
        click.echo(f"{found.packages} packages of {found.name} for {found.platform} are in the package cache")
        if found.lock is not None:
            click.echo(f"Its lock is {found.lock}, for CHANNEL=local OFFLINE=1")
        return
    made = bundle_environment(
        find_layout(),
        env_name or "",
        platform or host_platform(),
        local=channel == "local",
        output=output,
        fetch=fetch,
        progress=make_progress(),
        portable=portable,
    )
    click.echo(f"{made.path}: {made.packages} packages, {made.size / 1e6:.0f} MB, sha256 {made.sha256}")
    if portable:
        click.echo(f"To install it: python3 install.py PREFIX --manifest-sha256 {made.manifest_sha256}")

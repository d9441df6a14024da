"""The verb image: a lock as a container image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from torchlocks.cli.commands.shared import channel_option, mirror_option

if TYPE_CHECKING:
    from torchlocks.image.write import Image


@click.command()
@click.argument("name", metavar="ENV_OR_LOCK", required=False)
@click.option("--env", "env_name", default=None, help="The environment, as the argument.")
@click.option("--platform", default=None, help="Platform of the image (default: this machine's, or the only one).")
@channel_option
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    default=None,
    help="Image to build on: an OCI layout (folder or tar), or the tar of a file system (default: none).",
)
@click.option("--base-name", default=None, metavar="NAME", help="The image in a base that has several.")
@click.option("--prefix", default="/opt/env", show_default=True, help="Where the environment is in the image.")
@click.option(
    "--compression", type=click.Choice(["gzip", "zstd", "none"]), default="gzip", show_default=True, help="Of layers."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder, or FILE.tar (default: build/images/ENV-PLATFORM).",
)
@click.option("--offline", is_flag=True, help="Use the package cache only.")
@mirror_option
@click.option("--allow-md5", is_flag=True, help="Accept packages for which the lock has no sha256.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON, and nothing else.")
def image(
    name: str | None,
    env_name: str | None,
    platform: str | None,
    channel: str,
    base: Path | None,
    base_name: str | None,
    prefix: str,
    compression: Literal["gzip", "zstd", "none"],
    output: Path | None,
    offline: bool,
    mirror: str | None,
    allow_md5: bool,
    as_json: bool,
) -> None:
    """Write a lock as a container image, an OCI image layout, without a container engine."""
    import json
    from dataclasses import asdict

    from torchlocks.cli.console import make_progress
    from torchlocks.core.layout import find_layout
    from torchlocks.image.write import ImageOptions, find_image_lock, make_image
    from torchlocks.install.fetch_options import FetchOptions
    from torchlocks.solve.repodata import mirrors

    wanted = name or env_name
    if wanted is None or (name and env_name):
        raise click.UsageError("name one environment or lock: torchlocks image cpu")
    if base_name is not None and base is None:
        raise click.UsageError("--base-name goes with --base")
    layout = find_layout()
    locked = find_image_lock(layout, wanted, platform, local=channel == "local")
    made = make_image(
        locked,
        output or layout.build / "images" / f"{locked.name}-{locked.platform}",
        ImageOptions(
            base=base,
            base_name=base_name,
            prefix=prefix,
            compression=compression,
            channel=channel,
            fetch=FetchOptions(offline=offline, allow_md5=allow_md5, mirrors=mirrors(mirror or None)),
        ),
        make_progress(quiet=as_json),
    )
    if as_json:
        click.echo(json.dumps({**asdict(made), "path": str(made.path)}))
    else:
        _print(made)


def _print(made: Image) -> None:
    from torchlocks.core.quantities import size

    for layer in made.layers:
        click.echo(f"{layer.group:6}{layer.packages:5} packages  {size(layer.size):>9}  {layer.digest}")
    click.echo(f"{made.path}: {made.name}, {size(made.size)}, {made.digest}")
    kind = "oci-archive" if made.path.suffix == ".tar" else "oci"
    click.echo(f"To take it elsewhere: skopeo copy {kind}:{made.path}:{made.name} docker://REGISTRY/NAME")

"""Verbs that build and measure the project: channel, recipes, bench."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bench.benchmark import Part
    from torchlocks.publish.upload import Service


@click.command()
@click.option("--cuda", default=None, help="Build the channel of this CUDA version; without it, the CPU's.")
def channel(cuda: str | None) -> None:
    """Build the local channel from recipes/local, PyPI wheels and this machine's Python."""
    from torchlocks.cli.console import make_progress
    from torchlocks.core.layout import find_layout
    from torchlocks.local_channel.build import build_local_channel

    layout = find_layout()
    if cuda is not None:
        from torchlocks.host.detect import host_platform
        from torchlocks.matrix.load import load_matrix

        load_matrix(layout.matrix).gpu_environment(cuda, host_platform(), local=True)
    built = build_local_channel(layout, accelerator=cuda or "cpu", progress=make_progress())
    click.echo(f"{built.url}: {len(built.versions)} packages, {len(built.rebuilt)} built now")


@click.command()
@click.option("--unit", is_flag=True, help="The unit tests alone.")
def test(unit: bool) -> None:
    """Run the tests of this project; for systems without make."""
    import subprocess

    from torchlocks.core.layout import find_layout

    layout = find_layout()
    layout.require_checkout("test")
    which = ["tests/unit"] if unit else []
    raise SystemExit(
        subprocess.run(
            [sys.executable, "-m", "pytest", *which, "-n", "auto", "--dist", "worksteal"], cwd=layout.root, check=False
        ).returncode
    )


@click.command()
@click.argument("tag")
@click.argument("folder", type=click.Path(path_type=Path))
def release(tag: str, folder: Path) -> None:
    """Attach all files below FOLDER to the GitHub release of TAG, with the sums of their bytes; for workflows."""
    from torchlocks.core.layout import find_layout
    from torchlocks.publish.release import publish_release

    layout = find_layout()
    layout.require_checkout("release")
    for path in publish_release(layout, tag, folder):
        click.echo(f"attached {path.name}")


@click.command()
@click.argument("channel")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", "service", type=click.Choice(["prefix", "anaconda"]), default="prefix", show_default=True)
@click.option("--url", default=None, help="The server, if it is not the public one.")
def upload(channel: str, folder: Path, service: Service, url: str | None) -> None:
    """Upload the conda packages below FOLDER to a channel; the token is in the variable CHANNEL_TOKEN."""
    import os

    from torchlocks.publish.upload import upload_packages

    for path in upload_packages(folder, service, channel, os.environ, url=url):
        click.echo(f"uploaded {path.name}")


@click.command()
def dist() -> None:
    """Build the wheel and the source distribution into build/dist, with SHA256SUMS."""
    from torchlocks.cli.console import make_progress
    from torchlocks.core.layout import find_layout
    from torchlocks.publish.dist import build_dist

    layout = find_layout()
    layout.require_checkout("dist")
    for path in build_dist(layout, make_progress()):
        click.echo(f"wrote {path.relative_to(layout.made)}")


@click.command()
@click.option("--update", is_flag=True, help="Only write what is generated from the locks: torch-env and the variants.")
@click.option("--platform", "platforms", multiple=True, help="Only this platform; may be repeated (default: all).")
def recipes(update: bool, platforms: tuple[str, ...]) -> None:
    """Build the recipes of torch-verify and torch-env into build/recipes, a channel."""
    from torchlocks.core.layout import find_layout

    layout = find_layout()
    if update:
        layout.require_checkout("recipes --update")
        from torchlocks.matrix.load import load_matrix
        from torchlocks.publish.metapackages import update_generated

        changed = update_generated(layout, load_matrix(layout.matrix))
        for path in changed:
            click.echo(f"wrote {path.relative_to(layout.root)}")
        if not changed:
            click.echo("the recipes are current")
        return
    from torchlocks.cli.console import make_progress
    from torchlocks.publish.build import build_recipes

    built = build_recipes(layout, platforms=platforms or None, progress=make_progress())
    click.echo(f"{built.url}: {len(built.packages)} packages, built with {built.engine}")
    click.echo(f"tests passed: {', '.join(built.tested) or 'none'}")
    for reason in dict.fromkeys(built.untested.values()):
        names = dict.fromkeys(name for name, why in built.untested.items() if why == reason)
        click.echo(f"tests not run: {', '.join(names)}: {reason}")


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Runs of each, in turn.")
@click.option("--snapshot", type=click.Path(path_type=Path), default=None, help="Measure locking too, against it.")
@click.option(
    "--growth",
    default=1000,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="The largest number of environments to lock and check.",
)
@click.option(
    "--only",
    "parts",
    multiple=True,
    type=click.Choice(["start-up", "from-nothing", "channel", "install", "lock", "verify", "growth"]),
    help="Measure only this; may be repeated (default: all).",
)
def bench(rounds: int, snapshot: Path | None, growth: int, parts: tuple[Part, ...]) -> None:
    """Measure the tool against floors and peers of the same run."""
    from torchlocks.cli.console import make_progress
    from torchlocks.core.layout import find_layout
    from torchlocks.solve.repodata import require_snapshot

    if snapshot is not None:
        require_snapshot(snapshot)
    layout = find_layout()
    layout.require_checkout("bench")
    # The benchmarks are beside the tool, outside the wheel.
    sys.path.insert(0, str(layout.root / "scripts"))
    from bench.benchmark import PARTS, BenchOptions
    from bench.benchmark import bench as measure
    from bench.report import as_markdown, write_bench

    options = BenchOptions(rounds=rounds, snapshot=snapshot, growth=growth, parts=parts or PARTS)
    found = measure(layout, options, make_progress())
    written, note = write_bench(found, layout.reports)
    click.echo(as_markdown(found), nl=False)
    click.echo(f"\nwrote {', '.join(str(path.relative_to(layout.made)) for path in written)}", err=True)
    if note:
        click.echo(note, err=True)

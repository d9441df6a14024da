"""The verbs site and pick."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from torchlocks.site.pick import Pick


@click.command()
def site() -> None:
    """Write the catalogue as a static site into build/site."""
    from torchlocks.cli.console import make_progress
    from torchlocks.core.layout import find_layout
    from torchlocks.site.write import write_site

    written = write_site(find_layout(), make_progress())
    click.echo(f"{written.start}: {written.pages} pages, {written.page_bytes / 1e3:.0f} kB", nl=False)
    click.echo(f", and {written.other_bytes / 1e6:.1f} MB of lockfiles and reports")


@click.command()
@click.option("--driver", default=None, help="NVIDIA driver, such as 535 or 535.104.05 (default: none).")
@click.option("--gpu", default=None, help="GPU, such as A100 or 'RTX 4090', or its compute capability.")
@click.option("--platform", default=None, help="conda platform (default: this machine's).")
@click.option("--wsl", is_flag=True, help="Linux inside Windows, with the driver of Windows.")
@click.option("--glibc", default=None, help="Version of glibc (default: new enough).")
@click.option("--cuda", default=None, help="One CUDA version (default: the best).")
@click.option(
    "--with",
    "packages",
    multiple=True,
    type=click.Choice(["torchvision", "torchaudio"]),
    help="What must be in it; may be repeated.",
)
@click.option("--python", default=None, help="Python, such as 3.13 (default: the row's).")
@click.option("--torch", default=None, help="PyTorch, such as 2.12 (default: the row's).")
@click.option("--client", default=None, help="conda, mamba, micromamba, conda-lock, pixi or torchlocks (default: all).")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, and nothing else.")
def pick(
    driver: str | None,
    gpu: str | None,
    platform: str | None,
    wsl: bool,
    glibc: str | None,
    cuda: str | None,
    packages: tuple[str, ...],
    python: str | None,
    torch: str | None,
    client: str | None,
    as_json: bool,
) -> None:
    """Print the best environment for a described machine, and the command that installs it.

    `torchlocks doctor` inspects the machine it runs on; this command inspects none.
    """
    from pathlib import Path

    from torchlocks.core.errors import UnfitHostError
    from torchlocks.core.layout import find_layout
    from torchlocks.export.clients import CLIENTS, find_client
    from torchlocks.host.detect import host_platform
    from torchlocks.matrix.load import load_matrix
    from torchlocks.site.candidates import candidates_of_locks
    from torchlocks.site.catalogue import read_catalogue
    from torchlocks.site.pick import Machine, Wanted, choose
    from torchlocks.site.pick import picked as with_entry

    clients = [find_client(client)] if client else list(CLIENTS.values())
    if gpu is not None and driver is None:
        raise UnfitHostError("A GPU requires a driver.", fix="give it: --driver 535")
    machine = Machine(platform=platform or host_platform(), driver=driver, gpu=gpu, wsl=wsl, glibc=glibc)
    layout = find_layout()
    wanted = Wanted(packages=packages, python=python, torch=torch)
    matrix = load_matrix(layout.matrix)
    targets = wanted.candidates(matrix, machine.platform)
    choice = choose(tuple(candidates_of_locks(layout, matrix, targets)), matrix.left_out, machine, cuda, wanted)
    where = choice.candidate.env, choice.candidate.platform
    (cell,) = read_catalogue(layout, matrix=matrix, targets=[matrix.target(*where)], here=False).index.cells()
    picked = with_entry(*cell, choice)
    root = None if layout.root == Path.cwd() else layout.root
    lines = {each.name: each.command(*where, root) for each in clients}
    if as_json:
        import json

        answer = {
            "environment": picked.environment.name,
            "state": picked.result.state,
            "remarks": [reason.text for reason in picked.result.reasons],
            "refused": list(picked.refused),
            "with_newer_driver": list(picked.more),
            "commands": lines,
            "entry": picked.platform.model_dump(mode="json"),
        }
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(_summary(picked))
    for remark in (*(reason.text for reason in picked.result.reasons), *picked.refused, *picked.more):
        click.echo(f"note: {remark}")
    for name, line in lines.items():
        click.echo(line if client else f"{name + ':':12} {line}")


def _summary(picked: Pick) -> str:
    from torchlocks.core.quantities import size

    entry = picked.platform
    cuda = f"CUDA {entry.cuda.version}, " if entry.cuda else "CPU only, "
    return (
        f"{picked.environment.name} on {entry.platform}: torch {entry.torch}, {cuda}Python {entry.python}, "
        f"{size(entry.download_bytes)} to download; {entry.verification.text}"
    )

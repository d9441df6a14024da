"""Making environments and working in them."""

from __future__ import annotations

from pathlib import Path

import click

from torchlocks.commands.shared import installed_prefix, mirror_option, show_verdict


@click.command()
@click.argument("kind", type=click.Choice(["cpu", "gpu"]))
@click.option(
    "--cuda", default="auto", show_default=True, help="CUDA version of the row, or auto: what the driver runs."
)
@click.option("--channel", type=click.Choice(["auto", "conda-forge", "local"]), default="auto", show_default=True)
@click.option("--offline", is_flag=True, help="Use the package cache alone.")
@mirror_option
@click.option("--force", is_flag=True, help="Make it again even if nothing has changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON, and nothing else.")
def env(kind: str, cuda: str, channel: str, offline: bool, mirror: str | None, force: bool, as_json: bool) -> None:
    """Build the CPU or a CUDA environment and verify it."""
    from torchlocks.console import make_progress
    from torchlocks.environment import ChannelChoice, Request, make_environment
    from torchlocks.host import host_platform
    from torchlocks.layout import find_layout

    layout = find_layout()
    platform = host_platform()
    name = "cpu" if kind == "cpu" else _gpu_environment(layout.matrix, cuda, platform, local=channel == "local")
    choice: ChannelChoice = "auto" if channel == "auto" else "local" if channel == "local" else "conda-forge"
    progress = make_progress(quiet=as_json)
    request = Request(env=name, platform=platform, channel=choice, offline=offline, force=force, mirror=mirror or None)
    outcome = make_environment(layout, request, progress)
    if outcome.verdict is None:
        for note in outcome.notes:
            click.echo('{"changed": false}' if as_json else note)
        return
    show_verdict(outcome.verdict, name, as_json)
    for note in outcome.notes:
        progress.warn(note)
    if not as_json:
        click.echo(f"Ready: make shell ENV={name}, or make run ENV={name} CMD='python …'")


def _gpu_environment(matrix_file: Path, cuda: str, platform: str, *, local: bool) -> str:
    from packaging.version import Version

    from torchlocks.errors import NoSuchRowError
    from torchlocks.matrix import load_matrix

    matrix = load_matrix(matrix_file)
    if cuda != "auto":
        return matrix.gpu_environment(cuda, platform, local=local)
    from torchlocks.host import driver_cuda

    driver = driver_cuda()
    rows = matrix.local_targets(platform) if local else matrix.targets()
    here = [t for t in rows if t.platform == platform and t.cuda]
    if driver is None:
        raise NoSuchRowError(
            "CUDA=auto asks the NVIDIA driver, and this machine has none.",
            fix=f"name a version, one of {', '.join(sorted({t.cuda or '' for t in here}, key=Version))} "
            "(make env-gpu CUDA=…), or use the CPU environment: make env-cpu",
        )
    fitting = [t for t in here if Version(t.virtual_packages["__cuda"]) <= Version(driver)]
    if not fitting:
        raise NoSuchRowError(
            f"The driver of this machine runs CUDA {driver} at most, and no row is that old.",
            fix="install a newer driver (450.80.02 or later), or use the CPU environment: make env-cpu",
        )
    return max(fitting, key=lambda t: Version(t.cuda or "0")).env


@click.command()
@click.argument("env_name")
@click.option("-k", "select", default=None, help="Run only the checks that match, as for pytest -k.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON, and nothing else.")
def verify(env_name: str, select: str | None, as_json: bool) -> None:
    """Run the torch suite in an installed environment."""
    from torchlocks.console import make_progress
    from torchlocks.environment import verify_installed
    from torchlocks.layout import find_layout

    installed_prefix(env_name)
    verdict = verify_installed(find_layout(), env_name, make_progress(quiet=as_json), select=select)
    show_verdict(verdict, env_name, as_json)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("env_name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(env_name: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in an installed environment, activated.

    One argument is a shell command ('python -c "…" | head'); several are a program and its arguments.
    """
    import shlex

    from torchlocks.activate import run_in

    raise SystemExit(run_in(installed_prefix(env_name), command[0] if len(command) == 1 else shlex.join(command)))


@click.command()
@click.argument("env_name")
def shell(env_name: str) -> None:
    """Start a shell in an installed environment, activated."""
    from torchlocks.activate import shell_in

    raise SystemExit(shell_in(installed_prefix(env_name)))


@click.command()
@click.argument("env_name")
def rollback(env_name: str) -> None:
    """Go back to the previous environment."""
    from torchlocks.console import make_progress
    from torchlocks.install import rollback as roll_back
    from torchlocks.layout import find_layout

    back = roll_back(find_layout().prefix(env_name), progress=make_progress())
    click.echo(f"{env_name} is again the one installed {back.installed_at}" if back else f"{env_name} is rolled back")


@click.command()
@click.argument("env_name")
@click.option("--fix", is_flag=True, help="Put damaged and missing files back from the package cache.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON, and nothing else.")
def fsck(env_name: str, fix: bool, as_json: bool) -> None:
    """Compare every file of an environment with what its packages hold."""
    from torchlocks.console import make_progress
    from torchlocks.errors import IntegrityError
    from torchlocks.fsck import fsck as look
    from torchlocks.fsck_report import as_json as findings_json
    from torchlocks.fsck_report import as_text as findings_text

    findings = look(installed_prefix(env_name), fix=fix, progress=make_progress(quiet=as_json))
    click.echo(findings_json(findings) if as_json else findings_text(findings))
    if not findings.ok:
        raise IntegrityError(
            f"{env_name} is not as its packages installed it.",
            where=str(findings.prefix),
            fix=f"torchlocks fsck {env_name} --fix puts files back; what shadows torch is for you to remove",
        )

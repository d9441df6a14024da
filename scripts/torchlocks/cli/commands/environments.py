"""Verbs that build environments and work in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from torchlocks.cli.commands.shared import (
    channel_option,
    installed_prefix,
    is_prefix,
    mirror_option,
    scheduler_option,
    show_verdict,
)

if TYPE_CHECKING:
    from torchlocks.core.layout import Layout
    from torchlocks.core.progress import Progress
    from torchlocks.matrix.model import Matrix
    from torchlocks.workflow.environment import ChannelChoice, Outcome


@click.command()
@click.argument("kind", type=click.Choice(["cpu", "gpu"]))
@click.option(
    "--cuda", default="auto", show_default=True, help="CUDA version of the row, or auto: the best for this machine."
)
@click.option("--python", default=None, metavar="X.Y", help="A variant of the row with this Python.")
@click.option("--torch", "pytorch", default=None, metavar="X.Y", help="A variant of the row with this PyTorch.")
@click.option("--pair", is_flag=True, help="Build the CPU environment with the same versions, too.")
@click.option("--require-gpu", is_flag=True, help="Fail at once if no GPU can be used.")
@channel_option
@click.option("--offline", is_flag=True, help="Use the package cache only.")
@mirror_option
@click.option("--force", is_flag=True, help="Build it again even if nothing has changed.")
@click.option("--quick", is_flag=True, help="Verify with the suite's short set of checks.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON, and nothing else.")
def env(
    kind: str,
    cuda: str,
    python: str | None,
    pytorch: str | None,
    pair: bool,
    require_gpu: bool,
    channel: ChannelChoice,
    offline: bool,
    mirror: str | None,
    force: bool,
    quick: bool,
    as_json: bool,
) -> None:
    """Build the CPU or a CUDA environment and verify it."""
    from torchlocks.cli.console import make_progress
    from torchlocks.core.layout import find_layout
    from torchlocks.host.detect import host_platform
    from torchlocks.matrix.load import load_matrix
    from torchlocks.workflow.environment import Request, make_environment

    if require_gpu and kind == "cpu":
        raise click.UsageError("--require-gpu is for GPU environments: torchlocks env gpu --require-gpu")
    if cuda != "auto" and kind == "cpu":
        raise click.UsageError(f"--cuda is for GPU environments: torchlocks env gpu --cuda {cuda}")
    layout = find_layout()
    platform = host_platform()
    progress = make_progress(quiet=as_json)
    matrix = load_matrix(layout.matrix)
    if channel == "local" and (python or pytorch):
        raise click.UsageError("the local channel has one Python and one PyTorch: leave --python and --torch out")
    if kind == "cpu":
        names = [matrix.variant("cpu", platform, python=python, pytorch=pytorch)]
    else:
        names = [_gpu_environment(layout, matrix, cuda, channel, require_gpu, progress, python, pytorch)]
    if pair:
        names.insert(0, _cpu_pair(matrix, names[0], platform, local=channel == "local"))
    for name in names:
        request = Request(
            env=name,
            platform=platform,
            channel=channel,
            offline=offline,
            force=force,
            quick=quick,
            mirror=mirror or None,
        )
        _show(name, make_environment(layout, request, progress), progress, as_json)


def _show(name: str, outcome: Outcome, progress: Progress, as_json: bool) -> None:
    """Print the result of building an environment, and how to use it."""
    from torchlocks.core.layout import as_typed_here

    if outcome.verdict is None:
        for note in outcome.notes:
            click.echo('{"changed": false}' if as_json else note)
        return
    show_verdict(outcome.verdict, name, as_json)
    for note in outcome.notes:
        progress.warn(note)
    if not as_json:
        click.echo(as_typed_here(f"Ready: make shell ENV={name}, or make run ENV={name} CMD='python …'"))


def _cpu_pair(matrix: Matrix, gpu: str, platform: str, *, local: bool) -> str:
    """Return the CPU environment with the same Python, PyTorch and torchvision. Raises NoSuchRowError."""
    from torchlocks.core.errors import NoSuchRowError

    if matrix.environments[gpu].accelerator == "cpu":
        raise click.UsageError("--pair goes with a GPU environment: torchlocks env gpu --pair")
    found = "cpu" if local else matrix.cpu_pair(gpu, platform)
    if found is None:
        target = matrix.target(gpu, platform)
        vision = f" and torchvision {target.torchvision}" if target.torchvision else ""
        raise NoSuchRowError(
            f"There is no CPU environment with PyTorch {target.pytorch}{vision} for Python {target.python}.",
            where=f"{gpu} on {platform}",
            fix="choose another variant (torchlocks matrix --all lists them), or leave the pair out",
        )
    return found


def _gpu_environment(
    layout: Layout,
    matrix: Matrix,
    cuda: str,
    channel: ChannelChoice,
    require_gpu: bool,
    progress: Progress,
    python: str | None,
    pytorch: str | None,
) -> str:
    """Return the CUDA environment to build; raises if it is not compatible with this machine."""
    from torchlocks.host.detect import detect_host
    from torchlocks.host.doctor import limits_of_locks
    from torchlocks.workflow.choose import choose_gpu_environment

    host = detect_host()
    choice = choose_gpu_environment(
        matrix,
        host,
        cuda,
        local=channel == "local",
        require_gpu=require_gpu,
        python=python,
        pytorch=pytorch,
        limits=limits_of_locks(layout.locks, host.platform),
    )
    for note in choice.notes:
        progress.say(f"note: {note}")
    return choice.env


@click.command()
@click.argument("env_name")
@click.option("-k", "select", default=None, help="Run only the checks that match, as for pytest -k.")
@click.option("--quick", is_flag=True, help="Run the suite's short set of checks, about ten seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON, and nothing else.")
@scheduler_option
@click.option(
    "--per",
    type=click.Choice(["node", "kind", "worker"]),
    default="node",
    show_default=True,
    help="With --scheduler: verify on every node, on one of each kind (platform, CPU, driver, GPUs), or every worker.",
)
@click.option(
    "--install", is_flag=True, help="With --scheduler: each node installs the committed lock on its own disk."
)
@click.option("--lock", "own_lock", default=None, metavar="LOCK", help="With a path: the lock that it was made from.")
def verify(
    env_name: str,
    select: str | None,
    quick: bool,
    as_json: bool,
    scheduler: str | None,
    per: Literal["node", "kind", "worker"],
    install: bool,
    own_lock: str | None,
) -> None:
    """Run the torch suite in an installed environment, here or on the nodes of a cluster.

    The environment is a name, or the path of one that any conda client made.
    """
    from torchlocks.cli.console import make_progress
    from torchlocks.core.layout import find_layout
    from torchlocks.workflow.environment import verify_installed

    if scheduler is not None:
        from torchlocks.cli.commands.fleet import verify_on_nodes

        if quick:
            raise click.UsageError("--quick verifies this machine; nodes of a cluster run the whole suite, or -k.")
        verify_on_nodes(env_name, select, as_json, scheduler, per, install)
        return
    prefix = installed_prefix(env_name, verifying=True)
    if is_prefix(env_name):
        from torchlocks.workflow.prefix import verify_prefix

        progress = make_progress(quiet=as_json)
        verdict, reports = verify_prefix(prefix, own_lock, progress, select=select, quick=quick)
        show_verdict(verdict, env_name, as_json, reports)
        return
    if own_lock is not None:
        raise click.UsageError("--lock goes with the path of an environment; one with a name has its lock")
    verdict = verify_installed(find_layout(), env_name, make_progress(quiet=as_json), select=select, quick=quick)
    show_verdict(verdict, env_name, as_json)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("env_name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(env_name: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in an installed environment, activated; `auto` is the best that works on this machine.

    One argument is a shell command ('python -c "…" | head'); several are a program and its arguments.
    """
    import shlex

    from torchlocks.install.activate import run_in

    raise SystemExit(run_in(_prefix(env_name), command[0] if len(command) == 1 else shlex.join(command)))


@click.command()
@click.argument("env_name")
def shell(env_name: str) -> None:
    """Start a shell in an installed environment, activated; `auto` is the best that works on this machine."""
    from torchlocks.install.activate import shell_in

    raise SystemExit(shell_in(_prefix(env_name)))


def _prefix(env_name: str) -> Path:
    """Return the prefix of an installed environment; for `auto` that of the best one, whose name is printed."""
    if env_name != "auto":
        return installed_prefix(env_name)
    from torchlocks.core.layout import find_layout
    from torchlocks.host.detect import detect_host
    from torchlocks.matrix.load import load_matrix
    from torchlocks.workflow.choose import choose_installed

    layout = find_layout()
    choice = choose_installed(layout, load_matrix(layout.matrix), detect_host())
    for note in choice.notes:
        click.echo(f"note: {note}", err=True)
    return layout.prefix(choice.env)


@click.command()
@click.argument("env_name")
def rollback(env_name: str) -> None:
    """Go back to the previous environment."""
    from torchlocks.cli.console import make_progress
    from torchlocks.core.layout import find_layout
    from torchlocks.install.installer import rollback as roll_back

    # After an interrupted run, the environment itself may be missing.
    prefix = Path(env_name) if is_prefix(env_name) else find_layout().prefix(env_name)
    back = roll_back(prefix, progress=make_progress())
    click.echo(f"{env_name} is again the one installed {back.installed_at}" if back else f"{env_name} is rolled back")


@click.command()
@click.argument("env_name")
@click.option("--fix", is_flag=True, help="Restore damaged and missing files from the package cache.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON, and nothing else.")
def fsck(env_name: str, fix: bool, as_json: bool) -> None:
    """Compare every file of an environment with its packages."""
    from torchlocks.cli.console import make_progress
    from torchlocks.core.errors import IntegrityError
    from torchlocks.install.fsck import fsck as look
    from torchlocks.install.fsck_report import as_json as findings_json
    from torchlocks.install.fsck_report import as_text as findings_text

    findings = look(installed_prefix(env_name), fix=fix, progress=make_progress(quiet=as_json))
    click.echo(findings_json(findings) if as_json else findings_text(findings))
    if not findings.ok:
        raise IntegrityError(
            f"{env_name} differs from its packages.",
            where=str(findings.prefix),
            fix=f"torchlocks fsck {env_name} --fix restores files; remove what shadows torch yourself",
        )

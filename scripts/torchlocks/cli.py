"""The command line: the verbs, and nothing else. Each imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from torchlocks import __version__
from torchlocks.errors import InterruptedByUserError, TorchlocksError

if TYPE_CHECKING:
    from torchlocks.verify import Verdict

INTERNAL_ERROR = 70
"""Exit code of a bug in torchlocks itself (EX_SOFTWARE of sysexits.h)."""


_mirror_option = click.option("--mirror", default=None, help="URL that stands in for https://conda.anaconda.org.")


def _locking_options(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """What is locked and from which records; `default` says which environments are, when none is named."""
    options = (
        click.option("--env", "env_name", default=None, help=f"One environment (default: {default})."),
        click.option("--platform", default=None, help="One platform (default: all of the environment)."),
        click.option(
            "--snapshot", type=click.Path(path_type=Path), default=None, help="Folder of repodata to lock against."
        ),
        click.option(
            "--as-of", type=click.DateTime(["%Y-%m-%d"]), default=None, help="Ignore packages newer than this day."
        ),
        _mirror_option,
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="torchlocks")
def cli() -> None:
    """Reproducible PyTorch environments: rendered, locked, installed and verified."""


@cli.command()
@click.argument("kind", type=click.Choice(["cpu", "gpu"]))
@click.option(
    "--cuda", default="auto", show_default=True, help="CUDA version of the row, or auto: what the driver runs."
)
@click.option("--channel", type=click.Choice(["auto", "conda-forge", "local"]), default="auto", show_default=True)
@click.option("--offline", is_flag=True, help="Use the package cache alone.")
@_mirror_option
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
    name = "cpu" if kind == "cpu" else _gpu_environment(layout.matrix, cuda, platform)
    choice: ChannelChoice = "auto" if channel == "auto" else "local" if channel == "local" else "conda-forge"
    progress = make_progress(quiet=as_json)
    request = Request(env=name, platform=platform, channel=choice, offline=offline, force=force, mirror=mirror or None)
    outcome = make_environment(layout, request, progress)
    if outcome.verdict is None:
        for note in outcome.notes:
            click.echo('{"changed": false}' if as_json else note)
        return
    _show(outcome.verdict, name, as_json)
    for note in outcome.notes:
        progress.warn(note)
    if not as_json:
        click.echo(f"Ready: make shell ENV={name}, or make run ENV={name} CMD='python …'")


def _show(verdict: Verdict, env_name: str, as_json: bool) -> None:
    """Print a verdict; raise VerificationError when it is not good."""
    from torchlocks.errors import VerificationError
    from torchlocks.verify import summary_table, verdict_json

    if as_json:
        click.echo(verdict_json(verdict))
    else:
        from rich.console import Console

        Console(highlight=False).print(summary_table(verdict))
    if not verdict.ok:
        raise VerificationError(
            f"{env_name} is installed, but it failed its verification: {verdict.failure_line()}.",
            where=f"reports/{env_name}.json",
            fix=f"the environment stays in envs/{env_name}, marked unverified, for you to look at",
        )


def _gpu_environment(matrix_file: Path, cuda: str, platform: str) -> str:
    from packaging.version import Version

    from torchlocks.errors import NoSuchRowError
    from torchlocks.matrix import load_matrix

    matrix = load_matrix(matrix_file)
    if cuda != "auto":
        return matrix.gpu_environment(cuda, platform)
    from torchlocks.host import driver_cuda

    driver = driver_cuda()
    here = [t for t in matrix.targets() if t.platform == platform and t.cuda]
    if driver is None:
        raise NoSuchRowError(
            "CUDA=auto asks the NVIDIA driver, and this machine has none.",
            fix=f"name a version, one of {', '.join(sorted({t.cuda or '' for t in here}, key=Version))} "
            "(make env-gpu CUDA=…), or use the CPU environment: make env-cpu",
        )
    fitting = [t for t in here if Version(matrix.environments[t.env].virtual_cuda or "0") <= Version(driver)]
    if not fitting:
        raise NoSuchRowError(
            f"The driver of this machine runs CUDA {driver} at most, and no row is that old.",
            fix="install a newer driver (450.80.02 or later), or use the CPU environment: make env-cpu",
        )
    return max(fitting, key=lambda t: Version(t.cuda or "0")).env


@cli.command()
@_locking_options("all")
@click.option("--conda", default=None, help="Use this conda or micromamba to solve.")
def lock(
    env_name: str | None,
    platform: str | None,
    snapshot: Path | None,
    as_of: datetime | None,
    mirror: str | None,
    conda: str | None,
) -> None:
    """Solve the matrix and write the lockfiles."""
    _lock(env_name, platform, snapshot, as_of, mirror, conda, move=None)


@cli.command()
@click.argument("packages", nargs=-1, required=True)
@_locking_options("all that have the package")
def update(
    packages: tuple[str, ...],
    env_name: str | None,
    platform: str | None,
    snapshot: Path | None,
    as_of: datetime | None,
    mirror: str | None,
) -> None:
    """Move the named packages to their newest, and nothing else that can stay."""
    _lock(env_name, platform, snapshot, as_of, mirror, None, move=packages)


def _lock(
    env_name: str | None,
    platform: str | None,
    snapshot: Path | None,
    as_of: datetime | None,
    mirror: str | None,
    conda: str | None,
    move: tuple[str, ...] | None,
) -> None:
    from torchlocks.console import make_progress, print_error
    from torchlocks.layout import find_layout
    from torchlocks.lock import LockOptions, find_solver, lock_environments, targets_with
    from torchlocks.matrix import load_matrix
    from torchlocks.repodata import RecordSource, require_snapshot

    layout = find_layout()
    matrix = load_matrix(layout.matrix)
    targets = matrix.select(env_name, platform)
    if snapshot is not None:
        require_snapshot(snapshot)
    if move is not None:
        targets = tuple(targets_with(targets, layout.locks, move))
    source = RecordSource(
        snapshot=snapshot.absolute() if snapshot else None,
        as_of=as_of.date() if as_of else None,
        mirror=mirror or None,
    )
    options = LockOptions(source=source, solver=find_solver(conda or None), move=move)
    results, failures = lock_environments(layout, targets, layout.locks, options, make_progress())
    for result in results:
        state = f"wrote {', '.join(result.changed)}" if result.changed else "unchanged"
        click.echo(f"{result.env} ({', '.join(result.platforms)}): {state}")
    if not failures and any(result.changed for result in results) and (layout.recipes / "torch-env").is_dir():
        from torchlocks.metapackages import update_generated

        for path in update_generated(layout, matrix):
            click.echo(f"wrote {path.relative_to(layout.root)}, which says what the locks hold")
    for failure in failures:
        print_error(failure.error)
    if failures:
        count = len({failure.target.env for failure in failures})
        click.echo(
            f"{count} of {count + len(results)} environments could not be locked; their locks are untouched.", err=True
        )
        leave_with = failures[0].error.exit_code
        raise SystemExit(leave_with)


@cli.command()
@click.option("--env", "env_name", default=None, help="One environment (default: all).")
@click.option("--platform", default=None, help="One platform (default: all of the environment).")
def render(env_name: str | None, platform: str | None) -> None:
    """Print the rendered conda environment files."""
    from torchlocks.layout import find_layout
    from torchlocks.matrix import load_matrix
    from torchlocks.render import render as render_target

    layout = find_layout()
    for target in load_matrix(layout.matrix).select(env_name, platform):
        click.echo(f"# {target.env} on {target.platform}")
        click.echo(render_target(layout.root / target.template, target))


@cli.command()
@click.option("--schema", is_flag=True, help="Print the JSON schema of matrix.yml instead.")
@click.option("--markdown", is_flag=True, help="Print the table for the README.")
def matrix(schema: bool, markdown: bool) -> None:
    """List the environments and platforms there are."""
    from torchlocks.layout import find_layout
    from torchlocks.matrix import load_matrix, matrix_schema

    if schema:
        click.echo(matrix_schema(), nl=False)
        return
    from torchlocks.overview import matrix_markdown, matrix_table

    loaded = load_matrix(find_layout().matrix)
    if markdown:
        click.echo(matrix_markdown(loaded), nl=False)
        return
    from rich.console import Console

    Console(highlight=False).print(matrix_table(loaded))


@cli.command()
def channel() -> None:
    """Build the local channel from recipes/local, PyPI wheels and this machine's Python."""
    from torchlocks.channel import build_local_channel
    from torchlocks.console import make_progress
    from torchlocks.layout import find_layout

    built = build_local_channel(find_layout(), progress=make_progress())
    click.echo(f"{built.url}: {len(built.versions)} packages, {len(built.rebuilt)} built now")


@cli.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "json"]), default="text", show_default=True)
def diff(before: str, after: str, form: str) -> None:
    """Compare two locks: files, folders, REV:PATH in git, or the prefixes of environments."""
    from torchlocks.diff import diff as compare
    from torchlocks.diff_read import read_side
    from torchlocks.diff_report import as_json, as_markdown, as_text

    found = compare(read_side(before), read_side(after))
    if form == "text":
        from rich.console import Console

        Console(highlight=False).print(as_text(found))
    else:
        click.echo(as_markdown(found) if form == "markdown" else as_json(found), nl=False)


@cli.command()
@click.argument("what", metavar="PACKAGE_OR_SPEC")
@click.option("--env", "env_name", default="cpu", show_default=True, help="Environment of the matrix.")
@click.option("--platform", default=None, help="Platform (default: this machine's).")
@click.option("--snapshot", type=click.Path(path_type=Path), default=None, help="Folder of repodata for the solver.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, and nothing else.")
def why(what: str, env_name: str, platform: str | None, snapshot: Path | None, as_json: bool) -> None:
    """Say why a package is in a lock, or why a match spec cannot be had.

    A name ('cudnn') is looked up in the committed lock. A match spec ('numpy <2', 'pytorch * cpu*') is put to the
    solver together with all that the environment asks for; so is any question about a row without a lock.
    """
    from rich.console import Console

    from torchlocks import why as reasons
    from torchlocks.host import host_platform
    from torchlocks.layout import find_layout
    from torchlocks.lockfile import CONDA_LOCK
    from torchlocks.matrix import load_matrix
    from torchlocks.remote import open_lock
    from torchlocks.render import render as render_target
    from torchlocks.render import requested
    from torchlocks.repodata import RecordSource, require_snapshot

    layout = find_layout()
    target = load_matrix(layout.matrix).target(env_name, platform or host_platform())
    rendered = render_target(layout.root / target.template, target)
    path = layout.locks / env_name / CONDA_LOCK
    if what.isascii() and what.replace("-", "").replace("_", "").replace(".", "").isalnum() and path.is_file():
        answer = reasons.why(open_lock(str(path)), target.platform, what, requested(rendered))
        if as_json:
            click.echo(reasons.as_json(answer), nl=False)
        else:
            Console(highlight=False).print(reasons.as_text(answer))
        return
    from torchlocks.why_not import try_with

    if snapshot is not None:
        require_snapshot(snapshot)
    source = RecordSource(snapshot=snapshot.absolute() if snapshot else None)
    for line in try_with(target, rendered, [what], source):
        click.echo(f"Nothing is in the way: {env_name} on {target.platform} would have {line}.")


@cli.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--env", "env_name", default=None, help="One environment of the matrix (default: all).")
@click.option("--snapshot", type=click.Path(path_type=Path), default=None, help="Lock again from it, and compare.")
@click.option("--format", "form", type=click.Choice(["text", "json", "github"]), default="text", show_default=True)
@click.option("--rules", is_flag=True, help="List the rules and exit.")
def check(files: tuple[Path, ...], env_name: str | None, snapshot: Path | None, form: str, rules: bool) -> None:
    """Prove the committed locks, or any lockfiles that are named."""
    from torchlocks import check as checks
    from torchlocks import check_report
    from torchlocks.console import make_progress
    from torchlocks.errors import CheckError
    from torchlocks.layout import find_layout
    from torchlocks.matrix import load_matrix

    if rules:
        from torchlocks.check_relock import REASON, RULE

        for rule, reason in {**checks.rule_reasons(), RULE: f"{REASON} (with --snapshot)"}.items():
            click.echo(f"{rule:24} {reason}")
        return
    if files:
        report = checks.check_files_of(files)
    else:
        layout = find_layout()
        loaded = load_matrix(layout.matrix)
        report = checks.check_repository(layout, loaded, [env_name] if env_name else None)
        if snapshot is not None:
            from torchlocks.check_relock import check_relocked

            targets = loaded.select(env_name, None)
            report += check_relocked(layout, targets, snapshot.absolute(), make_progress(quiet=form != "text"))
    if form == "json":
        click.echo(check_report.as_json(report), nl=False)
    elif form == "github":
        click.echo(check_report.as_annotations(report), nl=False)
    else:
        from rich.console import Console

        Console(highlight=False).print(check_report.as_text(report))
    if report.failed:
        raise CheckError(
            f"The locks are not right: {check_report.summary(report)}.",
            fix="the findings say what to do; `torchlocks check --rules` says why each rule exists",
        )


@cli.command()
@click.argument("lock_name", metavar="LOCK")
@click.argument("prefix", required=False, type=click.Path(path_type=Path))
@click.option("--platform", default=None, help="Platform to install (default: this machine's).")
@click.option("--download-only", is_flag=True, help="Bring the packages into the cache, and install nothing.")
@click.option("--offline", is_flag=True, help="Use the package cache alone.")
@_mirror_option
@click.option("--allow-md5", is_flag=True, help="Accept packages for which the lock has no sha256.")
@click.option("--force", is_flag=True, help="Install again even if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON, and nothing else.")
def install(
    lock_name: str,
    prefix: Path | None,
    platform: str | None,
    download_only: bool,
    offline: bool,
    mirror: str | None,
    allow_md5: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Install LOCK (a conda-lock.yml, explicit file or pixi.lock; a path or a URL) into PREFIX."""
    import json

    from torchlocks.console import make_progress
    from torchlocks.errors import InstallError
    from torchlocks.fetch import FetchOptions
    from torchlocks.fetch import download_only as download
    from torchlocks.host import host_platform
    from torchlocks.install import InstallOptions, install_environment
    from torchlocks.provenance import Origin
    from torchlocks.remote import open_lock
    from torchlocks.repodata import mirrors

    here = host_platform()
    platform = platform or here
    lock = open_lock(lock_name)
    fetch = FetchOptions(offline=offline, allow_md5=allow_md5, mirrors=mirrors(mirror))
    progress = make_progress(quiet=as_json)
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


@cli.command()
@click.argument("env_name")
@click.option("-k", "select", default=None, help="Run only the checks that match, as for pytest -k.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON, and nothing else.")
def verify(env_name: str, select: str | None, as_json: bool) -> None:
    """Run the torch suite in an installed environment."""
    from torchlocks.console import make_progress
    from torchlocks.environment import verify_installed
    from torchlocks.layout import find_layout

    _installed(env_name)
    verdict = verify_installed(find_layout(), env_name, make_progress(quiet=as_json), select=select)
    _show(verdict, env_name, as_json)


@cli.command()
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

    findings = look(_installed(env_name), fix=fix, progress=make_progress(quiet=as_json))
    click.echo(findings_json(findings) if as_json else findings_text(findings))
    if not findings.ok:
        raise IntegrityError(
            f"{env_name} is not as its packages installed it.",
            where=str(findings.prefix),
            fix=f"torchlocks fsck {env_name} --fix puts files back; what shadows torch is for you to remove",
        )


@cli.command()
@click.option("--update", is_flag=True, help="Only write what is generated from the locks: torch-env and the variants.")
@click.option("--platform", "platforms", multiple=True, help="Only this platform; may be repeated (default: all).")
def recipes(update: bool, platforms: tuple[str, ...]) -> None:
    """Build the recipes of torch-verify and torch-env into build/recipes, a channel."""
    from torchlocks.layout import find_layout

    layout = find_layout()
    if update:
        from torchlocks.matrix import load_matrix
        from torchlocks.metapackages import update_generated

        changed = update_generated(layout, load_matrix(layout.matrix))
        for path in changed:
            click.echo(f"wrote {path.relative_to(layout.root)}")
        if not changed:
            click.echo("the recipes are current")
        return
    from torchlocks.console import make_progress
    from torchlocks.recipe_build import build_recipes

    built = build_recipes(layout, platforms=platforms or None, progress=make_progress())
    click.echo(f"{built.url}: {len(built.packages)} packages, built with {built.engine}")
    click.echo(f"tests passed: {', '.join(built.tested) or 'none'}")
    for reason in dict.fromkeys(built.untested.values()):
        names = dict.fromkeys(name for name, why in built.untested.items() if why == reason)
        click.echo(f"tests not run: {', '.join(names)}: {reason}")


@cli.command()
@click.argument("env_name", required=False)
@click.option("--platform", default=None, help="Platform of the packages (default: this machine's); any will do.")
@click.option("--channel", type=click.Choice(["auto", "conda-forge", "local"]), default="auto", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="File to write.")
@click.option("--portable", is_flag=True, help="Repack the packages for machines that cannot read Zstandard.")
@click.option("--offline", is_flag=True, help="Fetch nothing: only packages of the local channel can be had.")
@_mirror_option
@click.option("--unpack", type=click.Path(path_type=Path), default=None, help="Put a bundle into the package cache.")
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
    """Write one file with all that an installation without a network needs, or unpack one."""
    from torchlocks.bundle import bundle_environment, unpack_bundle
    from torchlocks.console import make_progress
    from torchlocks.fetch import FetchOptions
    from torchlocks.host import host_platform
    from torchlocks.layout import find_layout
    from torchlocks.repodata import mirrors

    if (env_name is None) == (unpack is None):
        raise click.UsageError("name an environment to bundle, or a bundle to --unpack")
    fetch = FetchOptions(offline=offline, mirrors=mirrors(mirror or None))
    if unpack is not None:
        found = unpack_bundle(unpack, fetch=fetch, progress=make_progress())
        click.echo(f"{found.packages} packages of {found.name} for {found.platform} are in the package cache")
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


@cli.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Runs of each, in turn.")
@click.option("--snapshot", type=click.Path(path_type=Path), default=None, help="Measure locking too, against it.")
def bench(rounds: int, snapshot: Path | None) -> None:
    """Measure what installing and locking cost, against floors and peers."""
    from torchlocks.bench import as_json, as_markdown
    from torchlocks.bench import bench as measure
    from torchlocks.console import make_progress
    from torchlocks.layout import find_layout
    from torchlocks.repodata import require_snapshot

    if snapshot is not None:
        require_snapshot(snapshot)
    layout = find_layout()
    found = measure(layout, rounds, snapshot, make_progress())
    layout.reports.mkdir(exist_ok=True)
    (layout.reports / "bench.json").write_text(as_json(found), encoding="utf-8")
    (layout.reports / "bench.md").write_text(as_markdown(found), encoding="utf-8")
    click.echo(as_markdown(found), nl=False)


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("env_name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(env_name: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in an installed environment, activated.

    One argument is a shell command ('python -c "…" | head'); several are a program and its arguments.
    """
    import shlex

    from torchlocks.activate import run_in

    raise SystemExit(run_in(_installed(env_name), command[0] if len(command) == 1 else shlex.join(command)))


@cli.command()
@click.argument("env_name")
def shell(env_name: str) -> None:
    """Start a shell in an installed environment, activated."""
    from torchlocks.activate import shell_in

    raise SystemExit(shell_in(_installed(env_name)))


@cli.command()
@click.argument("env_name")
def rollback(env_name: str) -> None:
    """Go back to the previous environment."""
    from torchlocks.console import make_progress
    from torchlocks.install import rollback as roll_back
    from torchlocks.layout import find_layout

    back = roll_back(find_layout().prefix(env_name), progress=make_progress())
    click.echo(f"{env_name} is again the one installed {back.installed_at}" if back else f"{env_name} is rolled back")


def _installed(env_name: str) -> Path:
    from torchlocks.errors import MissingFileError
    from torchlocks.layout import find_layout
    from torchlocks.provenance import read_provenance

    layout = find_layout()
    prefix = layout.prefix(env_name)
    found = read_provenance(prefix)
    if found is None:
        there = sorted(p.name for p in layout.envs.glob("[!.]*") if read_provenance(p)) if layout.envs.is_dir() else []
        make = f"make env-gpu CUDA={env_name[6:-1]}.{env_name[-1]}" if env_name.startswith("gpu-cu") else "make env-cpu"
        raise MissingFileError(
            f"The environment {env_name!r} is not installed.",
            where=str(prefix),
            fix=f"{make}" + (f", or name one that is: {', '.join(there)}" if there else ""),
        )
    if found.verified is False:
        click.echo(f"note: {env_name} failed its verification; see {found.report}", err=True)
    return prefix


def main() -> NoReturn:
    """The `torchlocks` command: run a verb, print errors as errors, leave with their exit code."""
    from torchlocks.leave import leave

    leave(_run())


def _run() -> int:
    from torchlocks.console import print_error

    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print_error(InterruptedByUserError("Interrupted. Nothing half-made is left in place; run it again to go on."))
        return InterruptedByUserError.exit_code
    except TorchlocksError as error:
        print_error(error)
        return error.exit_code
    except BrokenPipeError:
        return 1
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if os.environ.get("TORCHLOCKS_DEBUG"):
            traceback.print_exc()
        print(
            f"error: torchlocks itself failed: {type(error).__name__}: {error}\n"
            "  fix:   this is a bug; run again with TORCHLOCKS_DEBUG=1 and report what it prints",
            file=sys.stderr,
        )
        return INTERNAL_ERROR
    return 0


if __name__ == "__main__":
    main()

"""Cost of locking and checking: against conda-lock with the same solver, and against other solvers."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.model import Measure
from bench.run import BIN, Command, Side, command, compare, seconds_of
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.render import render, requested
from torchlocks.matrix.target import Target
from torchlocks.solve.repodata import RecordSource, channel_name

GROUP = "lock"


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A copy of the checkout's inputs and locks to lock in, and the snapshot to lock against."""

    checkout: Path
    place: Path
    snapshot: Path

    @property
    def layout(self) -> Layout:
        return Layout(self.checkout)

    def targets(self) -> tuple[Target, ...]:
        return load_matrix(self.layout.matrix).targets()


def ground_of(layout: Layout, place: Path, snapshot: Path) -> Ground:
    """Copy the inputs of locking and checking into `place`."""
    checkout = place / "checkout"
    copy_inputs(layout, checkout)
    for name in ("locks", "recipes"):
        shutil.copytree(layout.root / name, checkout / name)
    return Ground(checkout=checkout, place=place, snapshot=snapshot.absolute())


def copy_inputs(layout: Layout, checkout: Path) -> None:
    """Copy the matrix and the templates into a new folder."""
    checkout.mkdir(parents=True)
    for path in (layout.matrix, *sorted(layout.root.glob("environment-*.yml"))):
        shutil.copy(path, checkout)


def lock_command(ground: Ground, *more: str) -> Command:
    """`torchlocks lock` in the copy."""
    return command(BIN / "torchlocks", "lock", "--snapshot", ground.snapshot, *more, cwd=ground.checkout)


def measure_locks(ground: Ground, rounds: int, progress: Progress) -> Iterator[Measure]:
    """One cell, the matrix, and nothing to do; then `check`."""
    targets = ground.targets()
    first = targets[0]
    one = ("--env", first.env, "--platform", first.platform)
    anew = Side(name=f"{first.env} on {first.platform}", commands=(lock_command(ground, "--force", *one),))
    yield compare(GROUP, anew, _conda_lock(ground, [first]), rounds, progress)
    for peer in _solvers(ground, first):
        ours = Side(
            name=f"solve {first.env} on {first.platform}, its solver alone",
            commands=(_solve_command(ground, first, BIN / "torchlocks-conda"),),
        )
        yield compare(GROUP, ours, peer, rounds, progress)
    everything = Side(name=f"the matrix, {len(targets)} cells", commands=(lock_command(ground, "--force"),))
    again = Side(name=f"the matrix, {len(targets)} cells, nothing to do", commands=(lock_command(ground),))
    start = Side(name="a start of Python", commands=(command(sys.executable, "-c", "pass"),))
    yield compare(GROUP, everything, _conda_lock(ground, targets), max(1, rounds // 2), progress)
    # What --force writes is not cached; without it once, there is nothing to do.
    seconds_of(lock_command(ground))
    yield compare(GROUP, again, everything, max(1, rounds // 2), progress)
    check = Side(name="check everything", commands=(command(BIN / "torchlocks", "check", cwd=ground.checkout),))
    reading = Side(
        name="conda-lock's own reader on the same locks",
        commands=(command(sys.executable, "-c", _READ_ALL, cwd=ground.checkout),),
    )
    yield compare("check", check, reading, max(1, rounds // 2), progress)
    yield compare("check", check, start, max(1, rounds // 2), progress)


_READ_ALL = """
from pathlib import Path
from conda_lock.lockfile import parse_conda_lock_file
for path in Path("locks").glob("*/conda-lock.yml"):
    parse_conda_lock_file(path)
"""


def _conda_lock(ground: Ground, targets: Sequence[Target]) -> Side:
    """Measure conda-lock's own command with the same solver, one cell after another."""
    environment = RecordSource(snapshot=ground.snapshot).environment()
    commands = []
    for target in targets:
        folder = ground.place / "peer" / f"{target.env}-{target.platform}"
        folder.mkdir(parents=True, exist_ok=True)
        rendered = render(ground.checkout / target.template, target)
        (folder / "environment.yml").write_text(rendered, encoding="utf-8")
        virtual = {"subdirs": {target.platform: {"packages": dict(target.virtual_packages)}}}
        # JSON is YAML.
        (folder / "virtual.yml").write_text(json.dumps(virtual), encoding="utf-8")
        files = ("--file", "environment.yml", "--virtual-package-spec", "virtual.yml", "--lockfile", "lock.yml")
        solver = ("--conda", BIN / "torchlocks-conda")
        arguments = (BIN / "conda-lock", "lock", *solver, *files, "-p", target.platform)
        commands.append(command(*arguments, cwd=folder, env=environment))
    many = ", one cell after another" if len(targets) > 1 else ""
    return Side(name=f"conda-lock driving the same solver{many}", commands=tuple(commands))


def _solvers(ground: Ground, target: Target) -> Iterator[Side]:
    """Measure the same request with conda and others, if they are installed."""
    for name in ("conda", "mamba", "micromamba"):
        found = shutil.which(name)
        if found is not None:
            yield Side(name=f"{name}, the same specs", commands=(_solve_command(ground, target, Path(found)),))


def _solve_command(ground: Ground, target: Target, executable: Path) -> Command:
    """`EXE create --dry-run` against the snapshot as channels on disk, which all of them read in the same way."""
    rendered = render(ground.checkout / target.template, target)
    channels = [part for name in target.channels for part in ("--channel", _folder_url(ground, name))]
    overrides = {
        f"CONDA_OVERRIDE_{name.strip('_').upper()}": value.split(" ")[-1]
        for name, value in target.virtual_packages.items()
    }
    arguments = ("create", "--prefix", ground.place / "none", "--dry-run", "--json", "--override-channels")
    env = {"CONDA_SUBDIR": target.platform, "CONDA_PKGS_DIRS": str(ground.place / "pkgs"), **overrides}
    return command(executable, *arguments, *channels, *requested(rendered), env=env)


def _folder_url(ground: Ground, channel: str) -> str:
    return (ground.snapshot / channel_name(channel)).as_uri()

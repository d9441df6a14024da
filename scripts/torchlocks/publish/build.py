"""Build the published recipes into a channel (`build/recipes`), for all platforms on any one of them.

`conda build` builds them if conda-build is new enough for version 1 recipes, otherwise py-rattler-build, which
conda-build uses for them. The packages are then repacked without parts that differ from build to build, so that both
give the same bytes each time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from torchlocks.core.disk import disk_full, disk_full_as_error, free_bytes
from torchlocks.core.errors import DiskFullError, RecipeError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.core.text import last_lines
from torchlocks.matrix.cells import PlatformName
from torchlocks.matrix.load import load_matrix
from torchlocks.publish.metapackages import UPDATE, Metapackage, generated_texts, read_metapackages

if TYPE_CHECKING:
    from packaging.version import Version
    from rattler_build import RenderedVariant

    from torchlocks.local_channel.pack import Built

Engine = Literal["conda-build", "py-rattler-build"]

CONDA_BUILD_FLOOR = "26.5"
"""The first conda-build that builds version 1 recipes (through py-rattler-build)."""

VERIFY, ENVIRONMENTS = "torch-verify", "torch-env"
"""The folders of the recipes: the suite, and the metapackages."""

LEAST_ROOM = 1 << 20
"""Bytes. A failed build with less free space is reported as a full disk."""

NOT_BUILT = "the recipes could not be built"
UNTOUCHED = "free some space and run the command again; the existing channel is unchanged."


@dataclass(frozen=True, kw_only=True)
class BuiltChannel:
    """A finished channel. `tested` names the packages whose tests ran; `untested` maps the others to the reason."""

    path: Path
    engine: Engine
    packages: tuple[Built, ...]
    tested: tuple[str, ...] = ()
    untested: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.path.as_uri()


def build_recipes(
    layout: Layout,
    *,
    channel: Path | None = None,
    platforms: Sequence[str] | None = None,
    engine: Engine | None = None,
    progress: Progress,
) -> BuiltChannel:
    """Build `recipes/torch-verify` and `recipes/torch-env` into `channel` (default `build/recipes`).

    `platforms` default to those of the matrix, `engine` to the best available. An existing channel stays until the new
    one is complete. Raises RecipeError if a recipe is not current, cannot be rendered or built, or would contain a path
    of this machine; NoSuchRowError for a platform that is not in the matrix; LockfileError for a lock that cannot be
    read; DiskFullError.
    """
    from torchlocks.local_channel.channel import channel_lock, swap_channel, work_folder, write_repodata

    matrix = load_matrix(layout.matrix)
    packages = read_metapackages(layout, matrix)
    require_current(layout, packages)
    channel = (channel or layout.build / "recipes").absolute()
    for platform in platforms or ():
        matrix.select(None, platform)
    chosen = tuple(platforms or matrix.platforms)
    engine = engine or find_engine()
    with disk_full_as_error(channel.parent, NOT_BUILT, UNTOUCHED):
        channel.parent.mkdir(parents=True, exist_ok=True)
        with channel_lock(channel, progress), work_folder(channel) as work:
            following = work / "channel"
            (following / "noarch").mkdir(parents=True)
            jobs = [(ENVIRONMENTS, platform) for platform in chosen] + [(VERIFY, _here())]
            built: list[Built] = []
            with progress.task(f"Building recipes with {engine}", total=len(jobs)) as task:
                for name, platform in jobs:
                    raw = _build(engine, layout.recipes / name, platform, work / "raw" / platform / name)
                    built += [_finish(path, following, packages, layout, work) for path in raw]
                    task.advance(1, f"{name} for {platform}")
            write_repodata(following, built)
            tested, untested = _test(layout, following, built, work, progress)
            swap_channel(following, channel)
    return BuiltChannel(path=channel, engine=engine, packages=tuple(built), tested=tested, untested=untested)


def require_current(layout: Layout, packages: Sequence[Metapackage]) -> None:
    """Raise RecipeError unless the generated files agree with `packages`, read from matrix and locks."""
    for path, text in generated_texts(layout, packages).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise RecipeError(
                "The recipe does not agree with the committed locks.",
                where=str(path),
                fix=f"run `{UPDATE}` and commit what it writes.",
            )


def render_recipe(recipe: Path, variants: Path, platform: str) -> list[RenderedVariant]:
    """Return every package that the recipe in the folder `recipe` builds for `platform`. Raises RecipeError.

    `variants` is a `conda_build_config.yaml`.
    """
    from rattler_build import PlatformConfig, RattlerBuildError, RenderConfig, Stage0Recipe, VariantConfig

    try:
        # Read in the way that conda-build reads it for version 1 recipes.
        config = VariantConfig.from_file(variants)
        stage0 = Stage0Recipe.from_file(recipe / "recipe.yaml")
        return stage0.render(config, RenderConfig(platform=PlatformConfig(target_platform=platform)))
    except (RattlerBuildError, RuntimeError, OSError) as error:
        raise RecipeError(
            f"The recipe cannot be rendered for {platform}.",
            where=str(recipe / "recipe.yaml"),
            fix="correct the recipe; no channel was changed.",
            details=str(error),
        ) from error


def find_engine() -> Engine:
    """Return conda-build if it is installed and new enough, else py-rattler-build."""
    from packaging.version import Version

    version = conda_build_version()
    return "conda-build" if version and version >= Version(CONDA_BUILD_FLOOR) else "py-rattler-build"


def conda_build_version() -> Version | None:
    """Return the version of the conda-build that `conda build` runs; None if there is none."""
    from packaging.version import InvalidVersion, Version

    conda = shutil.which("conda")
    if conda is None:
        return None
    try:
        asked = subprocess.run([conda, "build", "--version"], capture_output=True, text=True, timeout=60, check=False)
        # It prints "conda-build 26.5.0".
        return Version(asked.stdout.split()[-1]) if asked.returncode == 0 and asked.stdout.split() else None
    except (OSError, subprocess.TimeoutExpired, InvalidVersion):
        return None


def _build(engine: Engine, recipe: Path, platform: str, output: Path) -> list[Path]:
    """Build one recipe for one platform, and return the engine's packages. Raises RecipeError, DiskFullError."""
    output.mkdir(parents=True)
    variants = recipe.parent / "conda_build_config.yaml"
    try:
        if engine == "conda-build":
            _conda_build(recipe, variants, platform, output)
        else:
            _rattler_build(recipe, variants, platform, output)
    except RecipeError as error:
        # The engine does not report a full disk as such.
        if free_bytes(output) < LEAST_ROOM:
            raise _disk_full(output) from error
        raise
    packages = sorted(output.glob("*/*.conda"))
    if not packages:
        raise RecipeError(f"The recipe makes no package for {platform}.", where=str(recipe / "recipe.yaml"))
    return packages


def _disk_full(folder: Path) -> DiskFullError:
    return disk_full(folder, NOT_BUILT, UNTOUCHED)


def _rattler_build(recipe: Path, variants: Path, platform: str, output: Path) -> None:
    from rattler_build import RattlerBuildError, ToolConfiguration

    for variant in render_recipe(recipe, variants, platform):
        try:
            variant.run_build(
                tool_config=ToolConfiguration(test_strategy="skip", keep_build=True),
                output_dir=output,
                channels=[],  # no recipe needs anything to be built
                no_build_id=True,
                no_include_recipe=True,
                package_format="conda",
            )
        except (RattlerBuildError, RuntimeError) as error:
            raise RecipeError(
                f"The build of {variant.recipe.package.name} for {platform} failed: {str(error).splitlines()[0]}",
                where=str(recipe / "recipe.yaml"),
                fix="correct the recipe; the channel was not changed.",
                details=str(error),
            ) from error


def conda_build_command(conda: str, recipe: Path, variants: Path, output: Path) -> list[str]:
    """Return the `conda build` command for one recipe; the platform is set by CONDA_SUBDIR in the environment.

    For version 1 recipes conda-build accepts few options, these among them (its `_rattler_build/compat.py`).
    """
    return [
        *(conda, "build", os.fspath(recipe)),
        *("-e", os.fspath(variants)),  # this file and no other
        *("--output-folder", os.fspath(output)),
        *("--no-test", "--no-include-recipe", "--package-format", "conda"),
        # The build requires no packages, so no channel has to be reachable.
        *("--override-channels", "--channel", output.as_uri()),
    ]


def _conda_build(recipe: Path, variants: Path, platform: str, output: Path) -> None:
    conda = shutil.which("conda")
    if conda is None:
        raise RecipeError(
            "conda is not on PATH, so conda-build cannot build the recipes.",
            fix="activate the environment that has conda-build, or build with py-rattler-build.",
        )
    command = conda_build_command(conda, recipe, variants, output)
    environment = {**os.environ, "CONDA_SUBDIR": platform}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RecipeError(
            f"conda build failed for {recipe.name} on {platform}, with exit code {done.returncode}.",
            where=str(recipe / "recipe.yaml"),
            fix="correct the recipe; the channel was not changed.",
            details=last_lines(done.stdout + done.stderr),
        )


def _finish(raw: Path, following: Path, packages: Sequence[Metapackage], layout: Layout, work: Path) -> Built:
    """Repack a package into the new channel, without paths of this machine or the current time."""
    from torchlocks.core.files import EARLIEST_TIME_S, hash_file
    from torchlocks.local_channel.pack import Built
    from torchlocks.local_channel.repack import repack

    subdir = raw.parent.name
    target = following / subdir / raw.name
    target.parent.mkdir(exist_ok=True)
    mine = [p for p in packages if p.platform == subdir and raw.name.endswith(f"-{p.version}-{p.build}.conda")]
    newest = mine[0].newest_s if mine else int(os.environ.get("SOURCE_DATE_EPOCH", EARLIEST_TIME_S))
    index = repack(
        raw,
        target,
        newest=max(newest, EARLIEST_TIME_S),
        forbidden=[str(work), str(layout.root.resolve())],
        may_be_empty=bool(mine),
    )
    return Built(
        name=index["name"],
        version=index["version"],
        build=index["build"],
        subdir=subdir,
        file=raw.name,
        sha256=hash_file(target),
        md5=hash_file(target, "md5"),
        size=target.stat().st_size,
        index=index,
    )


def _test(
    layout: Layout, channel: Path, built: Sequence[Built], work: Path, progress: Progress
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Run the tests of torch-verify if there is a local channel. Returns those names, and reasons for the others."""
    untested = {
        package.name: "it installs PyTorch from its channels; `torchlocks env` installs and verifies the same lock"
        for package in built
        if package.name != VERIFY
    }
    (verify,) = (package for package in built if package.name == VERIFY)
    if not (layout.channel / "noarch" / "repodata.json").is_file():
        return (), untested | {VERIFY: "there is no local channel to take Python and pytest from (`make channel`)"}
    progress.say(f"Testing {VERIFY} in an environment from the local channel.")
    test_package(channel / verify.subdir / verify.file, [channel.as_uri(), layout.channel.as_uri()], work / "cache")
    return (VERIFY,), untested


def test_package(package: Path, channels: Sequence[str], cache: Path) -> None:
    """Run the tests that a package contains, in an environment from `channels`. Raises RecipeError with their output.

    `cache` is the engine's package cache: the user's may contain packages of an earlier build with the same names.
    """
    program = (
        "import sys; from rattler_build import Package\n"
        "results = Package.from_file(sys.argv[1]).run_tests(channel=sys.argv[2:])\n"
        "print(*(line for result in results if not result.success for line in result.output), sep='\\n')\n"
        "sys.exit(not (results and all(result.success for result in results)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, os.fspath(package), *channels],
        env={**os.environ, "RATTLER_CACHE_DIR": os.fspath(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RecipeError(
            f"The tests of {package.name} failed.",
            where=str(package),
            fix="correct the recipe; the channel was not changed.",
            details=last_lines(done.stdout + done.stderr),
        )


def _here() -> str:
    from rattler import Subdir

    here = str(Subdir.current())
    return here if here in get_args(PlatformName) else "linux-64"

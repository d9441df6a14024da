"""Generate `recipes/torch-env` from the committed locks: the pins of each environment and platform.

The recipe pins what determines how torch computes: torch and its companions, CUDA, the math library, NumPy and Python.
The other packages of a lock are not pinned, so that packages can be added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchlocks.core.errors import LockfileError
from torchlocks.core.files import write_whole
from torchlocks.core.layout import Layout
from torchlocks.cuda.packages import is_cuda_package, torch_package
from torchlocks.local_channel.recipe_template import render_recipe
from torchlocks.lockfile.formats import PIXI, read_lock
from torchlocks.lockfile.models import LockedPackage
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target

UPDATE = "make recipes UPDATE=1"

INSTALLED = ("python", "pytorch", "pytorch-cuda", "cuda-version", "torchvision", "torchaudio", "numpy")
"""The packages that a metapackage requires, if the lock has them; all others are their dependencies."""

_PINNED = {
    *INSTALLED, "libtorch", "pytorch-mutex", "torchtriton", "triton", "torchvision-extra-decoders",
    "mkl", "libopenblas", "nomkl", "blas", "libblas", "libcblas", "liblapack", "liblapacke", "onednn",
}  # fmt: skip
"""Pinned besides CUDA's packages. OpenMP and compiler runtimes are not: they stay compatible, and others need newer."""


@dataclass(frozen=True, kw_only=True)
class Metapackage:
    """One variant of `recipes/torch-env`: an environment on one platform.

    `version` is torch's; `build` contains CPU or CUDA version and ends in a hash of the pins. `pins` are match specs
    with version and build, `installs` the required names. `newest_s` is the timestamp of the newest locked package, in
    seconds since 1970.
    """

    env: str
    platform: str
    version: str
    build: str
    pins: tuple[str, ...]
    installs: tuple[str, ...]
    newest_s: int

    @property
    def name(self) -> str:
        """The name of the metapackage."""
        return "torch-env-cpu" if self.env.split("-")[0] == "cpu" else "torch-env-gpu"


def read_metapackages(layout: Layout, matrix: Matrix) -> tuple[Metapackage, ...]:
    """Return the metapackage of every environment and platform of the matrix, from the committed locks.

    Raises MissingFileError or LockfileError if a lock is missing, is not valid, or does not have all platforms.
    """
    found = []
    for env in matrix.environments:
        lock = read_lock(layout.locks / env / PIXI)
        for target in matrix.select(env, None):
            if target.platform not in lock.packages:
                raise LockfileError(
                    f"The lock of {env} has no packages for {target.platform}.",
                    where=str(lock.path),
                    fix=f"make lock ENV={env} PLATFORM={target.platform}",
                )
            found.append(metapackage(target, lock.packages[target.platform], lock.path))
    return tuple(found)


def metapackage(target: Target, packages: Sequence[LockedPackage], path: Path) -> Metapackage:
    """Return the metapackage of one target from its locked packages; `path` is for error messages.

    Raises LockfileError when the lock has no torch.
    """
    torch = torch_package(packages)
    if torch is None:
        raise LockfileError(f"The lock of {target.env} has no PyTorch for {target.platform}.", where=str(path))
    pins = tuple(sorted(spec(package) for package in packages if is_pinned(package)))
    names = {package.name for package in packages}
    # Some rows require `cuda-version` from a channel of lower priority, which a package's dependencies cannot express.
    # There it is only constrained.
    elsewhere = {"cuda-version"} if "::" in (target.cuda_version or "") else set()
    installs = tuple(name for name in INSTALLED if name in names - elsewhere)
    digest = hashlib.sha256("\n".join((*pins, "", *installs)).encode()).hexdigest()
    flavour = f"cuda{target.cuda.replace('.', '')}" if target.cuda else "cpu"
    return Metapackage(
        env=target.env,
        platform=target.platform,
        version=torch.version,
        build=f"{flavour}_h{digest[:7]}_0",
        pins=pins,
        installs=installs,
        newest_s=max((package.timestamp_ms or 0) // 1000 for package in packages),
    )


def is_pinned(package: LockedPackage) -> bool:
    """Return whether a metapackage pins this package to the version and build of the lock."""
    return package.name in _PINNED or is_cuda_package(package)


def spec(package: LockedPackage) -> str:
    """Return the match spec of one locked package: name, version and build.

    Builds of the pytorch channel contain dots (`py3.11_cuda12.4_cudnn9.1.0_0`), which recipes do not allow in a build
    string: each is replaced by an asterisk.
    """
    return f"{package.name} =={package.version} {package.build.replace('.', '*')}"


def generated_files(layout: Layout, matrix: Matrix) -> dict[Path, str]:
    """Return the texts of the generated files: the recipe of the metapackages, and the variants of all recipes.

    There are none in a checkout without the recipe. Raises RecipeError if the recipe's template cannot be rendered, and
    what `read_metapackages` raises.
    """
    if not _template(layout).parent.is_dir():
        return {}
    return generated_texts(layout, read_metapackages(layout, matrix))


def generated_texts(layout: Layout, packages: Sequence[Metapackage]) -> dict[Path, str]:
    """Return what `generated_files` returns, for metapackages that are read already."""
    template = _template(layout)
    if not template.parent.is_dir():
        return {}
    return {
        template.with_suffix(""): recipe_text(template, packages),
        layout.recipes / "conda_build_config.yaml": variants_text(packages),
    }


def _template(layout: Layout) -> Path:
    return layout.recipes / "torch-env" / "recipe.yaml.in"


def update_generated(layout: Layout, matrix: Matrix) -> tuple[Path, ...]:
    """Write the generated files that are not current, and return their paths. Raises what `generated_files` raises."""
    changed = []
    for path, text in generated_files(layout, matrix).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_whole(path, text)
            changed.append(path)
    return tuple(changed)


def recipe_text(template: Path, packages: Sequence[Metapackage]) -> str:
    """Return the recipe of the metapackages. Raises RecipeError if `template` cannot be rendered."""
    return render_recipe(template, {"packages": packages})


def variants_text(packages: Sequence[Metapackage]) -> str:
    """Return `conda_build_config.yaml`: one variant for each environment and platform, with zipped keys.

    It has no selectors, which conda-build does not read for version 1 recipes; a recipe skips other platforms.
    """
    columns = {
        "torch_env": [package.env for package in packages],
        "torch_env_platform": [package.platform for package in packages],
        "torch_env_version": [package.version for package in packages],
        "torch_env_build": [package.build for package in packages],
    }
    lines = [f"# Written by `{UPDATE}` from matrix.yml and the committed locks. Do not edit it.", ""]
    for key, values in columns.items():
        lines += [f"{key}:", *(f'  - "{value}"' for value in values), ""]
    lines += ["zip_keys:", f"  - [{', '.join(columns)}]", ""]
    return "\n".join(lines)

"""What `recipes/torch-env` is generated from: what is pinned for every committed lock and platform.

The recipe pins what decides how torch computes: torch and its companions, CUDA, the math library, NumPy and Python.
The rest of a lock is free, so that other packages can be added.
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
from torchlocks.matrix.model import Matrix, Target

UPDATE = "make recipes UPDATE=1"

INSTALLED = ("python", "pytorch", "pytorch-cuda", "cuda-version", "torchvision", "torchaudio", "numpy")
"""What a metapackage installs by name, where the lock has it; everything else comes along as a dependency."""

_PINNED = {
    *INSTALLED, "libtorch", "pytorch-mutex", "torchtriton", "triton", "torchvision-extra-decoders",
    "mkl", "libopenblas", "nomkl", "blas", "libblas", "libcblas", "liblapack", "liblapacke", "onednn",
}  # fmt: skip
"""Pinned besides CUDA's packages. OpenMP and compiler runtimes are not: they stay compatible, and others need newer."""


@dataclass(frozen=True, kw_only=True)
class Metapackage:
    """One variant of `recipes/torch-env`: an environment on one platform.

    `version` is torch's; `build` names CPU or CUDA version and ends in a hash of the pins. `pins` are match specs with
    version and build, `installs` the names that are required. `newest_s` is when the newest of the locked
    packages was made, in seconds since 1970.
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
        """The name of the metapackage proper."""
        return "torch-env-cpu" if self.env == "cpu" else "torch-env-gpu"


def read_metapackages(layout: Layout, matrix: Matrix) -> tuple[Metapackage, ...]:
    """The metapackage of every environment and platform of the matrix, from the committed locks.

    Raises MissingFileError or LockfileError where a lock is missing, is none, or has not all platforms.
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
    """The metapackage of one target from its locked packages; `path` is what an error names.

    Raises LockfileError when the lock has no torch.
    """
    torch = torch_package(packages)
    if torch is None:
        raise LockfileError(f"The lock of {target.env} has no PyTorch for {target.platform}.", where=str(path))
    pins = tuple(sorted(spec(package) for package in packages if is_pinned(package)))
    names = {package.name for package in packages}
    # A row that has `cuda-version` from another channel than the first that has one names that channel; a package's
    # dependencies cannot. It is held where something else brings it.
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
    """Whether a metapackage holds this package to the version and build of the lock."""
    return package.name in _PINNED or is_cuda_package(package)


def spec(package: LockedPackage) -> str:
    """The match spec of one locked package: name, version and build.

    Builds of the pytorch channel hold dots (`py3.11_cuda12.4_cudnn9.1.0_0`), which recipes do not allow in a build
    string: an asterisk stands in for each.
    """
    return f"{package.name} =={package.version} {package.build.replace('.', '*')}"


def generated_files(layout: Layout, matrix: Matrix) -> dict[Path, str]:
    """What the generated files should hold: the recipe of the metapackages, and the variants of all recipes.

    Raises RecipeError where the recipe's template cannot be rendered, and what `read_metapackages` raises.
    """
    packages = read_metapackages(layout, matrix)
    template = layout.recipes / "torch-env" / "recipe.yaml.in"
    return {
        template.with_suffix(""): recipe_text(template, packages),
        layout.recipes / "conda_build_config.yaml": variants_text(packages),
    }


def update_generated(layout: Layout, matrix: Matrix) -> tuple[Path, ...]:
    """Write the generated files that are not current, and return their paths. Raises as `generated_files` does."""
    changed = []
    for path, text in generated_files(layout, matrix).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_whole(path, text)
            changed.append(path)
    return tuple(changed)


def recipe_text(template: Path, packages: Sequence[Metapackage]) -> str:
    """The recipe of the metapackages. Raises RecipeError where `template` cannot be rendered."""
    return render_recipe(template, {"packages": packages})


def variants_text(packages: Sequence[Metapackage]) -> str:
    """`conda_build_config.yaml`: one variant an environment and platform, the keys zipped.

    It has no selectors: conda-build reads it for version 1 recipes without them. A recipe skips what is of
    other platforms.
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

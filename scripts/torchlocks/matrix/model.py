"""The matrix: its environments, and the targets that they span."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar

from packaging.version import Version

from torchlocks.core.errors import NoSuchRowError
from torchlocks.core.values import Limited, Strict
from torchlocks.matrix.cells import (
    GPU_TEMPLATE,
    Cell,
    Drivers,
    DriverVersions,
    Environment,
    LocalCell,
    MinorVersion,
    Parity,
    Platform,
    PlatformName,
    environment_name,
)
from torchlocks.matrix.target import Target


def _key(name: str) -> str:
    return "environments" if name == "rows" else name


@dataclass(frozen=True, kw_only=True)
class Matrix(Strict):
    """The whole of `matrix.yml`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {**Strict.__pydantic_config__, "alias_generator": _key}

    platforms: dict[PlatformName, Platform]
    drivers: dict[MinorVersion, Drivers]
    rows: dict[Annotated[str, Limited(pattern=r"^[a-z][a-z0-9-]*$")], Environment]
    """The key `environments`: the environments with their defaults; `environments` has the variants as well."""
    local: dict[MinorVersion, dict[PlatformName, LocalCell]] = field(default_factory=dict)
    """CUDA version to what the local channel has of it. Nothing of this is locked in advance."""
    left_out: dict[MinorVersion, str] = field(default_factory=dict)
    parity: Parity = field(default_factory=Parity)

    def __post_init__(self) -> None:
        """Raise ValueError for names that are nowhere else in the file."""
        for name, row in self.rows.items():
            for platform in row.platforms:
                if platform not in self.platforms:
                    raise ValueError(f"environments.{name}.platforms.{platform}: not listed under `platforms`")
            if row.cuda and row.cuda not in self.drivers:
                raise ValueError(f"environments.{name}.cuda: no `drivers` entry for CUDA {row.cuda}")
            if row.cuda and row.cuda in self.left_out:
                raise ValueError(f"environments.{name}.cuda: CUDA {row.cuda} is also under `left_out`")
        for cuda, cells in self.local.items():
            if cuda not in self.drivers:
                raise ValueError(f"local.{cuda}: no `drivers` entry for CUDA {cuda}")
            for platform in cells:
                if platform not in self.platforms:
                    raise ValueError(f"local.{cuda}.{platform}: not listed under `platforms`")

    @cached_property
    def environments(self) -> dict[str, Environment]:
        """Every environment by name, each row followed by its variants, in the order of the file."""
        found: dict[str, Environment] = {}
        for name, row in self.rows.items():
            found |= {name: row, **row.variant_rows(name)}
        return found

    @cached_property
    def _row_of(self) -> dict[str, str]:
        return {name: row for row, each in self.rows.items() for name in (row, *each.variant_rows(row))}

    def targets(self) -> tuple[Target, ...]:
        """Return every environment on every platform of it, in the order of the file."""
        return tuple(
            self.target(name, platform) for name, row in self.environments.items() for platform in row.platforms
        )

    def defaults(self) -> tuple[Target, ...]:
        """Return the default of every row on every platform of it, in the order of the file."""
        return tuple(self.target(name, platform) for name, row in self.rows.items() for platform in row.platforms)

    def variant(self, name: str, platform: str, *, python: str | None = None, pytorch: str | None = None) -> str:
        """Return the name of the environment of row `name` with this Python and PyTorch (`3.13`, `2.12`).

        Without either, and for the default's own, that is the row. With one of them, it is the default if it has that
        one, else the variant with the newest other. Raises NoSuchRowError for what is no version, and, with the nearest
        combinations, if there is none on the platform.
        """
        if python is None and pytorch is None:
            return name
        for what, given in (("Python", python), ("PyTorch", pytorch)):
            if given is not None and not re.fullmatch(r"\d{1,4}(\.\d{1,4}){1,2}", given, re.ASCII):
                raise NoSuchRowError(
                    f"{given[:40]!r} is not a version of {what}.",
                    fix="give major and minor, such as 3.13 of Python or 2.12 of PyTorch",
                )
        default = self.target(name, platform)
        row = self.rows[self._row_of[name]]
        rows = {name: row, **row.variant_rows(name)}
        known = {each: cells.platforms[platform] for each, cells in rows.items() if platform in cells.platforms}
        matching = [
            each for each, cell in known.items() if python in (None, cell.python) and pytorch in (None, cell.pytorch)
        ]
        if name in matching:
            return name
        if matching:
            return max(matching, key=lambda each: (Version(known[each].pytorch), Version(known[each].python)))
        asked = " and ".join(part for part in (pytorch and f"PyTorch {pytorch}", python and f"Python {python}") if part)
        near = sorted(known.values(), key=lambda cell: _distance(cell, default, python, pytorch))[:3]
        option = "PY={0.python} TORCH={0.pytorch}"
        raise NoSuchRowError(
            f"{name} has no variant with {asked} on {platform}.",
            where=f"matrix.yml: environments.{name}",
            fix="\nor ".join(f"use {option.format(cell)}" for cell in near),
        )

    def row_of(self, name: str) -> str:
        """Return the row that environment `name` belongs to: itself, or the row that it is a variant of."""
        return self._row_of.get(name, name)

    def cpu_pair(self, name: str, platform: str) -> str | None:
        """Return the CPU environment with the same Python, PyTorch and torchvision (or none) as a CUDA one.

        None if there is no such environment on the platform.
        """
        target = self.target(name, platform)
        for each, row in self.environments.items():
            cell = row.platforms.get(platform)  # type: ignore[call-overload]
            if row.accelerator == "cpu" and cell is not None and _same(cell, target):
                return each
        return None

    def select(self, env: str | None, platform: str | None) -> tuple[Target, ...]:
        """Return the targets of one environment or one platform, or all. Raises NoSuchRowError if there are none."""
        if env is not None and platform is not None:
            return (self.target(env, platform),)
        if env is not None:
            return tuple(self.target(env, name) for name in self.environment(env).platforms)
        chosen = tuple(target for target in self.targets() if platform in (None, target.platform))
        if not chosen:
            raise NoSuchRowError(
                f"No environment exists for {platform!r}.", fix=f"name one of: {', '.join(self.platforms)}"
            )
        return chosen

    def environment(self, name: str) -> Environment:
        """Return the row called `name`. Raises NoSuchRowError with the existing names."""
        try:
            return self.rows.get(name) or self.environments[name]
        except KeyError:
            raise NoSuchRowError(
                f"There is no environment called {name!r}.",
                fix=f"name one of: {', '.join(self._near(name))}",
            ) from None

    def _near(self, name: str) -> list[str]:
        """Return the environments that may have been meant: variants of the row that the name begins with, else
        rows.
        """
        row = max((each for each in self.rows if name.startswith(f"{each}-")), key=len, default=None)
        return list(self.rows) if row is None else [row, *self.rows[row].variant_rows(row)]

    def target(self, name: str, platform: str) -> Target:
        """Return the environment `name` on `platform`. Raises NoSuchRowError with the nearest ones."""
        row = self.environment(name)
        cell = row.platforms.get(platform)  # type: ignore[call-overload]
        if cell is None:
            raise self._no_platform(name, row, platform)
        virtual = dict(self.platforms[platform].virtual_packages)  # type: ignore[index]
        if cell.glibc:
            virtual["__glibc"] = cell.glibc
        if row.virtual_cuda:
            virtual["__cuda"] = row.virtual_cuda
        cuda_version = f"cuda-version {row.cuda}.*" if cell.cuda_version == "default" else cell.cuda_version
        return Target(
            env=name,
            platform=platform,
            row_platforms=tuple(row.platforms),
            accelerator=row.accelerator,
            template=row.template,
            channels=row.channels,
            cuda=row.cuda,
            python=cell.python,
            pytorch=cell.pytorch,
            release=cell.release,
            build=cell.build,
            torchvision=cell.torchvision,
            torchaudio=cell.torchaudio,
            lacks=cell.lacks,
            constraints=row.constraints,
            cuda_version=cuda_version if row.cuda else None,
            virtual_packages=virtual,
            driver=self._driver(row.cuda, platform) if row.cuda else None,
            torch_architectures=cell.architectures or row.architectures,
            ptx=cell.ptx or row.ptx,
            oldest_gpu=cell.oldest_gpu or row.oldest_gpu,
        )

    def local_target(self, name: str, platform: str) -> Target:
        """Return the environment `name` on `platform` in the local channel, with the Python that runs this code.

        The CPU environment is the matrix' own; a CUDA environment (`gpu-cu130`) is one of `local`, which need not be a
        row. `Target.on_channel` sets the channel. Raises NoSuchRowError.
        """
        cuda = next((version for version in self.local if environment_name(version) == name), None)
        if cuda is None:
            row = self.environments.get(name)
            if row is not None and name not in self.rows:
                raise NoSuchRowError(
                    f"{name} is a variant, and the local channel has the one PyTorch of its wheels for one Python.",
                    where="matrix.yml: local",
                    fix="use the committed lock: CHANNEL=conda-forge\n"
                    f"or what the local channel has: make env-{self._row_of[name].split('-')[0]} CHANNEL=local",
                )
            if row is None or row.cuda is None:
                return self.target(name, platform)
            raise self._not_local(row.cuda, platform)
        cell = self.local[cuda].get(platform)  # type: ignore[call-overload]
        if cell is None:
            raise self._not_local(cuda, platform)
        return Target(
            env=name,
            platform=platform,
            row_platforms=(platform,),
            accelerator="cuda",
            template=GPU_TEMPLATE,
            channels=("local",),
            cuda=cuda,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            pytorch=cell.pytorch,
            release=None,
            build=f"cuda{cuda.replace('.', '')}*",
            torchvision=cell.torchvision,
            torchaudio=cell.torchaudio,
            lacks=None,
            constraints=(),
            cuda_version=f"cuda-version {cuda}.*",
            # The first minor of the major, so that the environment runs on every driver of that major.
            virtual_packages=self.platforms[platform].virtual_packages  # type: ignore[index]
            | {"__cuda": f"{cuda.split('.')[0]}.0"},
            driver=self._driver(cuda, platform),
            torch_architectures=cell.architectures,
            ptx=cell.ptx,
            oldest_gpu=None,
        )

    def local_targets(self, platform: str) -> tuple[Target, ...]:
        """Return the CUDA environments of the local channel on `platform`, oldest CUDA first."""
        return tuple(
            self.local_target(environment_name(cuda), platform)
            for cuda in sorted(self.local, key=Version)
            if platform in self.local[cuda]
        )

    def _driver(self, cuda: str, platform: str) -> DriverVersions:
        drivers = self.drivers[cuda]
        return drivers.windows if platform.startswith("win") else drivers.linux

    def _not_local(self, cuda: str, platform: str) -> NoSuchRowError:
        here = [version for version in sorted(self.local, key=Version) if platform in self.local[version]]
        choices = [f"use one that it has: CUDA={version} CHANNEL=local" for version in here[-1:]]
        if any(row.cuda == cuda and platform in row.platforms for row in self.rows.values()):
            choices.append(f"use the committed lock: CUDA={cuda} CHANNEL=conda-forge")
        return NoSuchRowError(
            f"The local channel has no CUDA {cuda}: PyPI has no torch for it on {platform}, or none that is pinned.",
            where=f"matrix.yml has, under `local` for {platform}, CUDA {', '.join(here) or '(none)'}",
            fix="\nor ".join(choices or ["use the CPU environment: make env-cpu"]),
        )

    def gpu_environment(self, cuda: str, platform: str, *, local: bool = False) -> str:
        """Return the name of the environment for CUDA `cuda` on `platform`, of conda channels or of the `local` one.

        Raises NoSuchRowError, with the reason and the nearest rows, if there is none.
        """
        if local and re.fullmatch(r"\d+\.\d+", cuda):
            if platform not in self.local.get(cuda, {}):
                raise self._not_local(cuda, platform)
            return environment_name(cuda)
        rows = {row.cuda: name for name, row in self.rows.items() if row.cuda}
        if cuda in rows:
            name = rows[cuda]
            self.target(name, platform)
            return name
        if not re.fullmatch(r"\d+\.\d+", cuda):
            meant = self._meant(cuda, sorted(rows, key=Version), platform)
            raise NoSuchRowError(
                f"CUDA={cuda} is not a CUDA version.",
                fix=(f"CUDA={meant} is probably meant\nor " if meant else "")
                + f"give major and minor, one of: {', '.join(sorted(rows, key=Version))}"
                "\nor auto: the best for this machine",
            )
        why = self.left_out.get(cuda, "no PyTorch build for it is known to this repository")
        here = [v for v in sorted(rows, key=Version) if platform in self.rows[rows[v]].platforms]
        raise NoSuchRowError(
            f"There is no environment for CUDA {cuda}: {why}.",
            where=f"matrix.yml has, for {platform}, CUDA {', '.join(here) or '(none)'}",
            fix=self._nearest(cuda, here, platform)
            + (
                f"\nor build it from PyPI wheels: CUDA={cuda} CHANNEL=local"
                if platform in self.local.get(cuda, {})
                else ""
            ),
        )

    def _meant(self, cuda: str, versions: list[str], platform: str) -> str | None:
        """Return the version of `versions` that `13`, `cu126`, `126`, `12.6.3` or `cuda-12.6` means, if any."""
        digits = re.fullmatch(r"(?:gpu-)?(?:cuda|cu)?[-=:_ ]?v?(\d+(?:\.\d+)*)", cuda.strip().lower())
        if digits is None:
            return None
        for version in versions:
            if digits[1] == version.replace(".", "") or digits[1].startswith(f"{version}."):
                return version
        here = [v for v in versions if platform in self.rows[environment_name(v)].platforms]
        return next((v for v in reversed(here or versions) if v.split(".")[0] == digits[1]), None)

    def _nearest(self, cuda: str, available: list[str], platform: str) -> str:
        """Return advice: the neighbours of `cuda`, and which drivers run them."""
        wanted = Version(cuda)
        neighbours = [v for v in available if Version(v) < wanted][-1:] + [v for v in available if Version(v) > wanted][
            :1
        ]
        if not neighbours:
            return "there is no CUDA environment for this platform; `make env-cpu` works everywhere."
        advice = []
        for version in neighbours:
            drivers = self._driver(version, platform)
            same = f", as for {cuda}" if Version(version).major == wanted.major else ""
            advice.append(f"CUDA={version}, which needs driver {drivers.floor} or newer{same}")
        return "use " + "\nor ".join(advice)

    def _no_platform(self, name: str, row: Environment, platform: str) -> NoSuchRowError:
        if platform not in self.platforms:
            return NoSuchRowError(
                f"{platform!r} is not a platform of this repository.", fix=f"name one of: {', '.join(self.platforms)}"
            )
        same_platform = [other for other, r in self.rows.items() if platform in r.platforms]
        return NoSuchRowError(
            f"{name} does not exist for {platform}: no such build of PyTorch solves.",
            where=f"matrix.yml: environments.{name}.platforms has {', '.join(row.platforms)}",
            fix=f"environments that exist for {platform}: {', '.join(same_platform) or '(none)'}",
        )


def _same(cell: Cell, target: Target) -> bool:
    return (cell.python, cell.pytorch, cell.torchvision) == (target.python, target.pytorch, target.torchvision)


def _distance(cell: Cell, default: Target, python: str | None, pytorch: str | None) -> tuple[int, ...]:
    """Return how far a cell is from the requested one: by PyTorch, then by Python, in minor versions."""
    pairs = ((cell.pytorch, pytorch or default.pytorch), (cell.python, python or default.python))
    return tuple(abs(Version(have).minor - Version(asked).minor) for have, asked in pairs)

"""`matrix.yml`, read and validated: environments, platforms, and the targets they span."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from torchlocks.core.errors import MatrixError, NoSuchRowError
from torchlocks.core.reading import read_text, refuse_costly_yaml

Accelerator = Literal["cpu", "cuda"]
MinorVersion = Annotated[str, StringConstraints(pattern=r"^\d+\.\d+$")]
DottedVersion = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)*$")]
BuildPattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.*]+$")]
PlatformName = Literal["linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64"]


GPU_TEMPLATE = "environment-gpu.yml"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Platform(_Model):
    """What every lock of a platform may rely on."""

    virtual_packages: dict[Annotated[str, StringConstraints(pattern=r"^__[a-z_]+$")], str]
    """Virtual package to version, or to "version build"."""

    @field_validator("virtual_packages")
    @classmethod
    def _no_cuda(cls, value: dict[str, str]) -> dict[str, str]:
        if "__cuda" in value:
            raise ValueError("__cuda belongs to an environment (virtual_cuda), never to a platform")
        return value


class DriverVersions(_Model):
    """NVIDIA driver versions of one operating system for one CUDA version."""

    floor: DottedVersion
    """The oldest driver that runs any minor of this CUDA major."""
    shipped: DottedVersion | None = None
    """The driver that came with this very CUDA version."""


class Drivers(_Model):
    """NVIDIA driver versions for one CUDA version."""

    linux: DriverVersions
    windows: DriverVersions


class Cell(_Model):
    """One environment on one platform."""

    python: MinorVersion
    """Python to the minor version."""
    pytorch: MinorVersion
    """PyTorch to the minor version; the newest patch that solves is locked."""
    release: DottedVersion | None = None
    """PyTorch to the patch, where the newest one has no CPU environment to pair with."""
    build: BuildPattern
    """Pattern of PyTorch's build string: what makes the CPU or the CUDA build certain."""
    torchvision: MinorVersion | None = None
    torchaudio: MinorVersion | None = None
    lacks: str | None = None
    """Why there is no torchvision, for a cell without it."""
    glibc: DottedVersion | None = None
    """`__glibc` for this cell, where it differs from the platform's."""
    cuda_version: str | None = "default"
    """Match spec of the `cuda-version` package: "default" pins the row's CUDA version, null pins nothing."""
    architectures: tuple[MinorVersion, ...] | None = None
    """Where they differ from the environment's."""
    ptx: MinorVersion | None = None
    """Where it differs from the environment's."""
    oldest_gpu: MinorVersion | None = None
    """Where it differs from the environment's."""


class Variant(_Model):
    """Another Python or PyTorch of a row on one platform; what it does not name is that of the platform's default.

    torchvision and torchaudio are those of a PyTorch, so a variant with another PyTorch names its own or has none.
    """

    python: MinorVersion | None = None
    pytorch: MinorVersion | None = None
    release: DottedVersion | None = None
    build: BuildPattern | None = None
    torchvision: MinorVersion | None = None
    torchaudio: MinorVersion | None = None
    architectures: tuple[MinorVersion, ...] | None = None
    ptx: MinorVersion | None = None

    def cell(self, default: Cell) -> Cell:
        """Return the variant as a cell, completed from the default of its platform."""
        named = self.model_dump(exclude_none=True)
        companions = {"torchvision": self.torchvision, "torchaudio": self.torchaudio, "lacks": None, "release": None}
        return default.model_copy(update={**companions, **named})


class Environment(_Model):
    """One row of the matrix: an environment and the platforms it exists for."""

    accelerator: Accelerator
    template: str
    """The Jinja template, relative to matrix.yml."""
    channels: tuple[str, ...] = Field(min_length=1)
    """Channels in order of priority (strict)."""
    cuda: MinorVersion | None = None
    """The CUDA version of the row's libraries; none for a CPU environment."""
    virtual_cuda: MinorVersion | None = None
    """The `__cuda` to solve with."""
    architectures: tuple[MinorVersion, ...] = ()
    """Compute capabilities that torch has machine code for."""
    ptx: MinorVersion | None = None
    """Compute capability of the PTX that newer GPUs compile from."""
    oldest_gpu: MinorVersion | None = None
    """Compute capability below which a library of the locks has no code, where torch has code for older GPUs."""
    constraints: tuple[str, ...] = ()
    """Match specs that hold libraries back, such as `cudnn <9.11`."""
    platforms: dict[PlatformName, Cell] = Field(min_length=1)
    """The default of each platform."""
    variants: dict[PlatformName, tuple[Variant, ...]] = {}
    """Other Pythons and PyTorches, by platform."""

    @model_validator(mode="after")
    def _cuda_goes_with_cuda(self) -> Environment:
        if self.accelerator == "cpu":
            for key in ("cuda", "virtual_cuda", "ptx", "oldest_gpu"):
                if getattr(self, key) is not None:
                    raise ValueError(f"a CPU environment has no `{key}`")
            if self.architectures:
                raise ValueError("a CPU environment has no `architectures`")
        else:
            for key in ("cuda", "virtual_cuda"):
                if getattr(self, key) is None:
                    raise ValueError(f"a CUDA environment needs `{key}`")
            if str(self.cuda).split(".")[0] != str(self.virtual_cuda).split(".")[0]:
                raise ValueError(f"`virtual_cuda` {self.virtual_cuda} is of another CUDA major than `cuda` {self.cuda}")
        for platform, variants in self.variants.items():
            if platform not in self.platforms:
                raise ValueError(f"`variants` has {platform}, which has no default under `platforms`")
            default = self.platforms[platform]
            seen = {(default.pytorch, default.python)}
            for variant in variants:
                cell = variant.cell(default)
                if (cell.pytorch, cell.python) in seen:
                    raise ValueError(f"{platform} has PyTorch {cell.pytorch} with Python {cell.python} twice")
                seen.add((cell.pytorch, cell.python))
        return self

    def variant_rows(self, name: str) -> dict[str, Environment]:
        """Return the variants as environments of their own, by name; `name` is this row's.

        Platforms with the same Python and PyTorch share one: `gpu-cu129` has `gpu-cu129-torch2.12-py313`.
        """
        cells: dict[str, dict[PlatformName, Cell]] = {}
        for platform, variants in self.variants.items():
            for variant in variants:
                cell = variant.cell(self.platforms[platform])
                cells.setdefault(variant_name(name, cell.pytorch, cell.python), {})[platform] = cell
        return {
            each: self.model_copy(update={"platforms": platforms, "variants": {}}) for each, platforms in cells.items()
        }


class LocalCell(_Model):
    """One CUDA version of the local channel on one platform: what PyPI's wheel of torch is."""

    pytorch: MinorVersion
    """PyTorch to the minor version; recipes/local pins the wheel."""
    architectures: tuple[MinorVersion, ...]
    """Compute capabilities that the wheel has machine code for."""
    ptx: MinorVersion | None = None
    """Compute capability of the PTX that newer GPUs compile from; none where the wheel has none."""


class Parity(_Model):
    """How CPU and GPU environments of one platform may differ, as shell patterns on package names."""

    accelerator: tuple[str, ...] = ()
    """Packages that only a CUDA environment has."""
    variant: tuple[str, ...] = ()
    """Packages that come and go with the torch build and its math library."""


class Matrix(_Model):
    """The whole of `matrix.yml`."""

    platforms: dict[PlatformName, Platform]
    drivers: dict[MinorVersion, Drivers]
    rows: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")], Environment] = Field(
        alias="environments"
    )
    """The environments with their defaults; `environments` has the variants as well."""
    local: dict[MinorVersion, dict[PlatformName, LocalCell]] = {}
    """CUDA version to what the local channel has of it. Nothing of this is locked in advance."""
    left_out: dict[MinorVersion, str] = {}
    parity: Parity = Parity()

    @model_validator(mode="after")
    def _rows_agree(self) -> Matrix:
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
        return self

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
        """Every environment on every platform it exists for, in the order of the file."""
        return tuple(
            self.target(name, platform) for name, row in self.environments.items() for platform in row.platforms
        )

    def defaults(self) -> tuple[Target, ...]:
        """The default of every row on every platform it exists for, in the order of the file."""
        return tuple(self.target(name, platform) for name, row in self.rows.items() for platform in row.platforms)

    def variant(self, name: str, platform: str, *, python: str | None = None, pytorch: str | None = None) -> str:
        """Return the name of the environment of row `name` with this Python and PyTorch (`3.13`, `2.12`).

        Without either, and for the default's own, that is the row. With one of them, it is the default if it has that
        one, else the variant with the newest other. Raises NoSuchRowError, with the nearest combinations, if there is
        none on the platform.
        """
        if python is None and pytorch is None:
            return name
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
        """The targets of one environment or one platform, or all. Raises NoSuchRowError when there are none."""
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
        """The row called `name`. Raises NoSuchRowError with the names there are."""
        try:
            return self.environments[name]
        except KeyError:
            raise NoSuchRowError(
                f"There is no environment called {name!r}.",
                fix=f"name one of: {', '.join(self._near(name))}",
            ) from None

    def _near(self, name: str) -> list[str]:
        """The environments that somebody may have meant: variants of the row that the name begins with, else rows."""
        row = max((each for each in self.rows if name.startswith(f"{each}-")), key=len, default=None)
        return list(self.rows) if row is None else [row, *self.rows[row].variant_rows(row)]

    def target(self, name: str, platform: str) -> Target:
        """The environment `name` on `platform`. Raises NoSuchRowError with the nearest ones there are."""
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
        """The environment `name` on `platform` as the local channel has it, with the Python that runs this code.

        The CPU environment is the matrix' own; a CUDA environment (`gpu-cu130`) is one of `local`, which need not be
        a row. `Target.on_channel` says where the channel is. Raises NoSuchRowError.
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
            torchvision=None,
            torchaudio=None,
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
        """The CUDA environments that the local channel has on `platform`, oldest CUDA first."""
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
        """The name of the environment for CUDA `cuda` on `platform`, from conda channels or from the `local` one.

        Raises NoSuchRowError, with the reason and the nearest rows, when there is none.
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
            raise NoSuchRowError(
                f"CUDA={cuda} is not a CUDA version.",
                fix=f"give major and minor, one of: {', '.join(sorted(rows, key=Version))}"
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

    def _nearest(self, cuda: str, available: list[str], platform: str) -> str:
        """Advice: the neighbours of `cuda`, and which drivers run them."""
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


@dataclass(frozen=True, kw_only=True)
class Target:
    """One environment on one platform: all that rendering, locking and checking need to know."""

    env: str
    platform: str
    row_platforms: tuple[str, ...]
    """All platforms of the environment, this one among them."""
    accelerator: Accelerator
    template: str
    channels: tuple[str, ...]
    cuda: str | None
    python: str
    pytorch: str
    release: str | None
    build: str
    torchvision: str | None
    torchaudio: str | None
    lacks: str | None
    constraints: tuple[str, ...]
    cuda_version: str | None
    virtual_packages: Mapping[str, str]
    driver: DriverVersions | None
    torch_architectures: tuple[str, ...]
    """Compute capabilities that torch was compiled for."""
    ptx: str | None
    oldest_gpu: str | None

    @property
    def architectures(self) -> tuple[str, ...]:
        """The compute capabilities that torch was compiled for and that the libraries of the lock have code for."""
        oldest = Version(self.oldest_gpu or "0")
        return tuple(each for each in self.torch_architectures if Version(each) >= oldest)

    @property
    def holds(self) -> tuple[str, ...]:
        """Return torch, torchvision and torchaudio with their versions, those that the environment has."""
        versions = {"torch": self.pytorch, "torchvision": self.torchvision, "torchaudio": self.torchaudio}
        return tuple(f"{name} {version}" for name, version in versions.items() if version)

    @property
    def glibc(self) -> str | None:
        """The oldest glibc that the lock may need; None off Linux."""
        return self.virtual_packages.get("__glibc")

    @property
    def driver_floor(self) -> str | None:
        """The oldest NVIDIA driver that runs the environment; None for the CPU's."""
        return self.driver.floor if self.driver else None

    def on_channel(self, url: str, *, python: str, pytorch: str) -> Target:
        """The same environment from another channel, which has its own Python and PyTorch and no extras."""
        minor = ".".join(python.split(".")[:2]), ".".join(pytorch.split(".")[:2])
        return replace(
            self,
            row_platforms=(self.platform,),
            channels=(url,),
            python=minor[0],
            pytorch=minor[1],
            release=None,
            torchvision=None,
            torchaudio=None,
            constraints=(),
        )


def variant_name(row: str, pytorch: str, python: str) -> str:
    """The name of a variant: `gpu-cu129-torch2.12-py313`."""
    return f"{row}-torch{pytorch}-py{python.replace('.', '')}"


def _same(cell: Cell, target: Target) -> bool:
    return (cell.python, cell.pytorch, cell.torchvision) == (target.python, target.pytorch, target.torchvision)


def _distance(cell: Cell, default: Target, python: str | None, pytorch: str | None) -> tuple[int, ...]:
    """How far a cell is from what was asked for: first by PyTorch, then by Python, in minors."""
    pairs = ((cell.pytorch, pytorch or default.pytorch), (cell.python, python or default.python))
    return tuple(abs(Version(have).minor - Version(asked).minor) for have, asked in pairs)


def environment_name(cuda: str) -> str:
    """The name of the environment for a CUDA version: `gpu-cu130` for 13.0."""
    return f"gpu-cu{cuda.replace('.', '')}"


def load_matrix(path: Path) -> Matrix:
    """Read and validate `path`. Raises MatrixError naming the file, the line and the key."""
    from ruamel.yaml import YAML

    try:
        text = read_text(path)
        refuse_costly_yaml(text)
    except OSError as error:
        raise MatrixError(f"Cannot read the matrix: {error.strerror}.", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise MatrixError(f"The matrix is not UTF-8 text (byte {error.start}).", where=str(path)) from None
    except ValueError as error:
        raise MatrixError(f"The matrix is not valid YAML: {error}.", where=str(path)) from None
    try:
        document = YAML(typ="rt").load(text)
    except Exception as error:
        # ruamel.yaml has TypeError, AttributeError and others for what it cannot construct.
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or (str(error).splitlines() or ["it is nested too deeply"])[0]
        raise MatrixError(f"The matrix is not valid YAML: {problem}.", where=where, fix="mend that line") from error
    if not isinstance(document, Mapping):
        raise MatrixError("The matrix is not a mapping of keys to values.", where=str(path))
    try:
        return Matrix.model_validate(_plain(document))
    except ValidationError as error:
        raise _explain(path, document, error) from error


def matrix_schema() -> str:
    """The JSON schema of `matrix.yml`, for editors; committed beside this module."""
    return json.dumps(Matrix.model_json_schema(), indent=2) + "\n"


def _plain(node: Any) -> Any:
    """ruamel's round-trip nodes as plain values (merge keys resolved)."""
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return node


def _explain(path: Path, document: Any, error: ValidationError) -> MatrixError:
    problems = []
    for entry in error.errors():
        keys = [str(key) for key in entry["loc"] if key != "[key]"]
        message = entry["msg"].removeprefix("Value error, ")
        if entry["type"] == "extra_forbidden":
            message = "no such key"
        problems.append(f"{path}:{_line_of(document, keys)}: {'.'.join(keys) or '(top level)'}: {message}")
    return MatrixError(
        "The matrix does not make sense.",
        where=problems[0],
        fix="mend that key; scripts/torchlocks/matrix/matrix.schema.json says what each may hold",
        details="\n".join(f"  also:  {problem}" for problem in problems[1:]) or None,
    )


def _line_of(document: Any, keys: list[str]) -> int:
    """The 1-based line of the deepest of `keys` that exists in the document."""
    line = 1
    node: Any = document
    for key in keys:
        marks: Any = getattr(node, "lc", None)
        if marks is None:
            break
        if isinstance(node, dict) and key in node:
            line = marks.key(key)[0] + 1 if key in (marks.data or {}) else line
            node = node[key]
        elif isinstance(node, list) and key.isdigit() and int(key) < len(node):
            line = marks.item(int(key))[0] + 1
            node = node[int(key)]
        else:
            break
    return int(line)

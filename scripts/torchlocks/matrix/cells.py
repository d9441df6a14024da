"""The contents of `matrix.yml` as validated values: platforms, drivers, cells, variants and rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from torchlocks.core.values import Limited, Strict

Accelerator = Literal["cpu", "cuda"]
MinorVersion = Annotated[str, Limited(pattern=r"^\d+\.\d+$")]
DottedVersion = Annotated[str, Limited(pattern=r"^\d+(\.\d+)*$")]
BuildPattern = Annotated[str, Limited(pattern=r"^[A-Za-z0-9_.*]+$")]
PlatformName = Literal["linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64"]


GPU_TEMPLATE = "environment-gpu.yml"


@dataclass(frozen=True, kw_only=True)
class Platform(Strict):
    """What every lock of a platform may rely on."""

    virtual_packages: dict[Annotated[str, Limited(pattern=r"^__[a-z_]+$")], str]
    """Virtual package to version, or to "version build"."""

    def __post_init__(self) -> None:
        """Raise ValueError for what a platform cannot rely on."""
        if "__cuda" in self.virtual_packages:
            raise ValueError("virtual_packages: __cuda belongs to an environment (virtual_cuda), never to a platform")


@dataclass(frozen=True, kw_only=True)
class DriverVersions(Strict):
    """NVIDIA driver versions of one operating system for one CUDA version."""

    floor: DottedVersion
    """The oldest driver that runs any minor of this CUDA major."""
    shipped: DottedVersion | None = None
    """The driver that came with this very CUDA version."""


@dataclass(frozen=True, kw_only=True)
class Drivers(Strict):
    """NVIDIA driver versions for one CUDA version."""

    linux: DriverVersions
    windows: DriverVersions


@dataclass(frozen=True, kw_only=True)
class Cell(Strict):
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


@dataclass(frozen=True, kw_only=True)
class Variant(Strict):
    """Another Python or PyTorch of a row on one platform; missing fields are those of the platform's default.

    torchvision and torchaudio belong to a PyTorch, so a variant with another PyTorch names its own or has none.
    """

    python: MinorVersion | None = None
    pytorch: MinorVersion | None = None
    release: DottedVersion | None = None
    build: BuildPattern | None = None
    torchvision: MinorVersion | None = None
    torchaudio: MinorVersion | None = None
    architectures: tuple[MinorVersion, ...] | None = None
    ptx: MinorVersion | None = None
    oldest_gpu: MinorVersion | None = None

    def cell(self, default: Cell) -> Cell:
        """Return the variant as a cell, completed from the default of its platform."""
        named = {name: value for name, value in vars(self).items() if value is not None}
        companions = {"torchvision": self.torchvision, "torchaudio": self.torchaudio, "lacks": None, "release": None}
        return replace(default, **{**companions, **named})


@dataclass(frozen=True, kw_only=True)
class Environment(Strict):
    """One row of the matrix: an environment and its platforms."""

    accelerator: Accelerator
    template: str
    """The Jinja template, relative to matrix.yml."""
    channels: Annotated[tuple[str, ...], Limited(min_length=1)]
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
    platforms: Annotated[dict[PlatformName, Cell], Limited(min_length=1)]
    """The default of each platform."""
    variants: dict[PlatformName, tuple[Variant, ...]] = field(default_factory=dict)
    """Other Pythons and PyTorches, by platform."""

    def __post_init__(self) -> None:
        """Raise ValueError for fields that contradict one another."""
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

    def variant_rows(self, name: str) -> dict[str, Environment]:
        """Return the variants as environments of their own, by name; `name` is this row's.

        Platforms with the same Python and PyTorch share one: `gpu-cu129` has `gpu-cu129-torch2.12-py313`.
        """
        cells: dict[str, dict[PlatformName, Cell]] = {}
        for platform, variants in self.variants.items():
            for variant in variants:
                cell = variant.cell(self.platforms[platform])
                cells.setdefault(variant_name(name, cell.pytorch, cell.python), {})[platform] = cell
        return {each: replace(self, platforms=platforms, variants={}) for each, platforms in cells.items()}


@dataclass(frozen=True, kw_only=True)
class LocalCell(Strict):
    """One CUDA version of the local channel on one platform, from PyPI's wheel of torch."""

    pytorch: MinorVersion
    """PyTorch to the minor version; recipes/local pins the wheel."""
    torchvision: MinorVersion | None = None
    torchaudio: MinorVersion | None = None
    architectures: tuple[MinorVersion, ...]
    """Compute capabilities that the wheel has machine code for."""
    ptx: MinorVersion | None = None
    """Compute capability of the PTX that newer GPUs compile from; none where the wheel has none."""


@dataclass(frozen=True, kw_only=True)
class Parity(Strict):
    """How CPU and GPU environments of one platform may differ, as shell patterns on package names."""

    accelerator: tuple[str, ...] = ()
    """Packages that only a CUDA environment has."""
    variant: tuple[str, ...] = ()
    """Packages that come and go with the torch build and its math library."""


def variant_name(row: str, pytorch: str, python: str) -> str:
    """Return the name of a variant: `gpu-cu129-torch2.12-py313`."""
    return f"{row}-torch{pytorch}-py{python.replace('.', '')}"


def environment_name(cuda: str) -> str:
    """Return the name of the environment for a CUDA version: `gpu-cu130` for 13.0."""
    return f"gpu-cu{cuda.replace('.', '')}"

"""A target: one environment on one platform, with all that rendering, locking and checking require."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from packaging.version import Version

from torchlocks.matrix.cells import Accelerator, DriverVersions


@dataclass(frozen=True, kw_only=True)
class Target:
    """One environment on one platform, with all that rendering, locking and checking require."""

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
        """The oldest glibc that the lock may require; None off Linux."""
        return self.virtual_packages.get("__glibc")

    @property
    def driver_floor(self) -> str | None:
        """The oldest NVIDIA driver that runs the environment; None for a CPU environment."""
        return self.driver.floor if self.driver else None

    def on_channel(self, url: str, *, python: str, pytorch: str) -> Target:
        """Return the same environment from another channel, which has its own Python and PyTorch.

        torchvision and torchaudio are those of a row of the local channel; rows of other channels have none there.
        """
        local = self.channels == ("local",)
        minor = ".".join(python.split(".")[:2]), ".".join(pytorch.split(".")[:2])
        return replace(
            self,
            row_platforms=(self.platform,),
            channels=(url,),
            python=minor[0],
            pytorch=minor[1],
            release=None,
            torchvision=self.torchvision if local else None,
            torchaudio=self.torchaudio if local else None,
            constraints=(),
        )

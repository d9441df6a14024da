"""The format of `index.json`, the catalogue for programs, as pydantic models.

`docs/index-json.md` describes it; `index.schema.json` is generated from these models. Fields may be added;
`schema_version` changes when one is removed or its meaning changes.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

VerificationState = Literal[
    "verified", "build-verified", "partial", "failed", "local", "local-failed", "outdated", "none"
]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class IndexFile(_Model):
    """One lockfile of an environment."""

    format: Literal["conda-lock", "explicit", "pixi"]
    path: str = Field(description="Path in the repository, and URL relative to index.json.")
    sha256: str = Field(description="SHA-256 of the file's bytes.")
    bytes: int


class IndexDriver(_Model):
    """NVIDIA driver versions of one operating system."""

    floor: str = Field(description="The oldest driver that runs this CUDA major.")
    shipped: str | None = Field(description="The driver that came with this very CUDA version; null: not known.")


class IndexDrivers(_Model):
    """The drivers of one CUDA version."""

    linux: IndexDriver
    windows: IndexDriver = Field(description="Also for Linux inside WSL, whose driver is that of Windows.")


class IndexLibrary(_Model):
    """A CUDA library that has no code for GPUs that torch may have code for."""

    library: str
    version: str
    oldest: str = Field(description="The oldest compute capability that it has code for.")


class IndexCuda(_Model):
    """What a CUDA environment asks of drivers and GPUs."""

    version: str = Field(description="CUDA version of the libraries, major.minor.")
    virtual: str = Field(description="The __cuda that the lock was solved with.")
    toolkit: str = Field(description="CUDA version that torch was compiled with; it may be older than `version`.")
    drivers: IndexDrivers
    toolkit_drivers: IndexDrivers | None = Field(description="The drivers of `toolkit`, where they are known.")
    architectures: tuple[str, ...] = Field(description="Compute capabilities that torch has machine code for.")
    ptx: str | None = Field(description="Compute capability of torch's portable code, from which newer GPUs run.")
    libraries: tuple[IndexLibrary, ...] = Field(
        default=(), description="From which compute capability the locked libraries have code."
    )


class IndexVerification(_Model):
    """What is known of the environment working.

    `verified`: the suite passed in an environment made from this very lock. `build-verified`: it did, for a CUDA
    environment, without a GPU. `partial`: only a part of it ran. `failed`: it did not pass. `local`, `local-failed`:
    only an environment out of PyPI wheels was tried, which is not this lock. `outdated`: another state of the lock
    was tried. `none`: nothing is known.
    """

    state: VerificationState
    text: str = Field(description="One sentence for people.")
    report: str | None = Field(description="URL of the report, relative to index.json.")
    date: str | None = Field(description="When the suite ran, ISO 8601.")


class IndexEvidence(_Model):
    """One committed record: this lock, or an earlier state of it, was proven on a kind of machine."""

    path: str = Field(description="Path in the repository, and URL relative to index.json.")
    state: Literal["cpu", "cuda-build", "gpu", "partial"]
    machine: str = Field(description="The kind of machine: GPUs with driver, or the operating system.")
    client: str = Field(description="The program that installed it.")
    date: str = Field(description="When the suite ran, ISO 8601.")
    lock_sha256: str
    differing: int | None = Field(description="How many packages differ from the present lock; null: this very lock.")
    run: str | None = Field(description="URL of the workflow run; null: run by hand.")


class IndexPlatform(_Model):
    """One environment on one platform."""

    platform: str = Field(description="conda's name of the platform, such as linux-64.")
    page: str = Field(description="URL of its page, relative to index.json.")
    torch: str
    torchvision: str | None = Field(description="Version of torchvision; null: it is not in this environment.")
    torchaudio: str | None = Field(description="Version of torchaudio; null: it is not in this environment.")
    lacks: str | None = Field(description="Why there is no torchvision; null: it is there, or no reason is recorded.")
    torch_build: str = Field(description="Build string of PyTorch's package.")
    python: str
    glibc: str | None = Field(description="The oldest glibc that the lock was solved for; null off Linux.")
    osx: str | None = Field(description="The oldest macOS that the lock was solved for; null elsewhere.")
    virtual_packages: dict[str, str] = Field(description="What the lock was solved for, in conda's notation.")
    cuda: IndexCuda | None = Field(description="null for a CPU environment.")
    packages: int
    download_bytes: int | None = Field(description="Sum of the sizes of the package files; null: not all known.")
    files: tuple[IndexFile, ...]
    verification: IndexVerification
    evidence: tuple[IndexEvidence, ...] = Field(default=(), description="Committed records, the newest first.")
    not_covered: tuple[str, ...] = Field(default=(), description="What the evidence on this lock does not show.")

    def file(self, form: str) -> IndexFile:
        """Return the lockfile of a format."""
        return next(each for each in self.files if each.format == form)


class IndexEnvironment(_Model):
    """One environment, as `matrix.yml` has it."""

    name: str
    variant_of: str | None = Field(description="The environment that this is another Python or PyTorch of.")
    accelerator: Literal["cpu", "cuda"]
    channels: tuple[str, ...] = Field(description="Channels in order of priority.")
    platforms: tuple[IndexPlatform, ...] = Field(description="Those that are locked.")


class IndexClient(_Model):
    """How a client installs an environment: commands with {env}, {platform}, {path}, {url} and {folder} to fill in."""

    name: str
    file: str
    line: str = Field(description="In a clone of the repository; {path} is the lockfile.")
    remote: str = Field(description="From the web; {url} is the lockfile's URL, {folder} that of its folder.")


class Index(_Model):
    """The whole of `index.json`."""

    schema_version: Literal[1] = 1
    torchlocks: str = Field(description="Version of the tool that wrote it.")
    revision: str | None = Field(description="Commit that has this matrix and these locks; null: none is known.")
    clients: tuple[IndexClient, ...]
    environments: tuple[IndexEnvironment, ...]
    not_locked: tuple[str, ...] = Field(description="env/platform of rows that have no lock.")
    left_out: dict[str, str] = Field(description="CUDA versions that have no environment, and why.")

    def cells(self) -> tuple[tuple[IndexEnvironment, IndexPlatform], ...]:
        """Return every environment on every platform that it is locked for, in the order of the matrix."""
        return tuple((env, platform) for env in self.environments for platform in env.platforms)

    def defaults(self) -> tuple[tuple[IndexEnvironment, IndexPlatform], ...]:
        """The default of every row on every platform, without variants."""
        return tuple((env, platform) for env, platform in self.cells() if env.variant_of is None)


def index_json(index: Index) -> str:
    """Return the text of `index.json`."""
    return index.model_dump_json(indent=1) + "\n"


def index_schema() -> str:
    """Return the JSON schema of `index.json`."""
    return json.dumps(Index.model_json_schema(), indent=1) + "\n"

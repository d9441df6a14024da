"""The format of an evidence record: an allow-list of public facts, as a pydantic model.

Records are committed and published, so nothing may be in them that identifies a machine or a person who did not ask
for it. Every text field has a pattern of what it may contain; `evidence.schema.json` is generated from these models.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from torchlocks.core.frozen import Frozen
from torchlocks.evidence.clients import Client

#: What may be proven: `cuda-build` is a CUDA build that did not compute on a GPU, `partial` a run with gaps.
ProvenState = Literal["cpu", "cuda-build", "gpu", "partial"]

#: The result of a required check. `not-applicable`: skipped with a reason of the suite's closed list.
Result = Literal["passed", "not-applicable", "not-proven"]

SYSTEMS = (
    *("Ubuntu", "Debian", "Fedora", "RHEL", "Rocky Linux", "AlmaLinux", "CentOS", "SLES", "openSUSE", "Amazon Linux"),
    *("Arch Linux", "Linux", "macOS", "Windows"),
)
"""Operating systems that a record names; any other Linux is `Linux`."""

GPU = (
    r"NVIDIA (GPU|(GeForce|Tesla|Quadro|RTX|TITAN|GRID|Graphics|DGX|Jetson|Orin|Thor|[A-Z]{1,3}\d{1,4}[A-Za-z]?)"
    r"([ -][A-Za-z0-9 ()-]{1,50})?)"
)
"""Names that NVIDIA's driver gives to GPUs; `NVIDIA GPU` is one of another form."""

_VERSION = r"\d{1,5}(\.\d{1,6}){0,3}"
_Version = Annotated[str, StringConstraints(pattern=f"^{_VERSION}$")]
_Hash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
_Gpu = Annotated[str, StringConstraints(pattern=f"^{GPU}$")]
_System = Annotated[str, StringConstraints(pattern=f"^({'|'.join(SYSTEMS)})( {_VERSION})?$")]
_Package = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+ [A-Za-z0-9_.!+-]+ [A-Za-z0-9_.+-]+$", max_length=300)
]
_Check = Annotated[str, StringConstraints(pattern=r"^test_[a-z0-9_]+\.py::test_[A-Za-z0-9_]+(\[[A-Za-z0-9_.-]+\])?$")]
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,79}$")]
_Account = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9](-?[A-Za-z0-9]){0,38}$")]
_Repository = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,39}/[A-Za-z0-9._-]{1,100}$")]


class Machine(Frozen):
    """The kind of machine: nothing that distinguishes one machine of the kind from another."""

    system: _System = Field(description="Operating system with its version, such as Ubuntu 24.04.")
    architecture: Literal["x86_64", "aarch64", "arm64", "ppc64le"]
    glibc: _Version | None = Field(default=None, description="Version of glibc; null off Linux.")
    gpus: tuple[_Gpu, ...] = Field(default=(), description="Names of the GPUs, one for each device.")
    driver: _Version | None = Field(default=None, description="Version of the NVIDIA driver; null: none.")


class Workflow(Frozen):
    """The workflow run that made the report."""

    repository: _Repository
    workflow: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = Field(
        description="File name of the workflow."
    )
    run: int = Field(gt=0, description="Number of the run, as in its URL.")

    @property
    def url(self) -> str:
        """The page of the run."""
        return f"https://github.com/{self.repository}/actions/runs/{self.run}"


class Required(Frozen):
    """One check of the suite's required set, and its result."""

    tier: Annotated[str, StringConstraints(pattern="^[a-z-]{1,20}$")]
    id: _Check
    result: Result


class Evidence(Frozen):
    """One record: the suite ran on one lock, one platform and one kind of machine, and what it proved."""

    schema_version: Literal[1] = 1
    env: _Name
    platform: Annotated[str, StringConstraints(pattern=r"^[a-z]+-[a-z0-9]+$")]
    accelerator: Literal["cpu", "cuda"]
    lock_sha256: _Hash = Field(description="SHA-256 of the conda-lock.yml that the environment was made from.")
    packages: tuple[_Package, ...] = Field(
        description="Packages of the lock on the platform, as `name version build`, sorted."
    )
    machine: Machine
    client: Client = Field(description="The program that installed the environment.")
    suite: _Version = Field(description="Version of torchlocks, whose suite ran.")
    required_set: _Hash = Field(description="Hash of the suite's table of required checks.")
    state: ProvenState
    required: tuple[Required, ...] = Field(description="The required set of checks, with results.")
    passed: int = Field(ge=1, description="How many checks passed, required or not.")
    skipped: int = Field(ge=0)
    date: datetime = Field(description="When the suite started, in UTC.")
    workflow: Workflow | None = Field(default=None, description="The workflow that made the report; null: run by hand.")
    account: _Account | None = Field(default=None, description="Who ran it, if they wanted to be named.")

    @property
    def gaps(self) -> tuple[str, ...]:
        """Required checks that proved nothing."""
        return tuple(each.id for each in self.required if each.result == "not-proven")

    @property
    def cell(self) -> str:
        """The environment and platform, as `env/platform`."""
        return f"{self.env}/{self.platform}"

    @property
    def name(self) -> str:
        """The path of the record below `evidence/`: one for each lock, platform, kind of machine and client."""
        gpus = list(dict.fromkeys(gpu.partition(" ")[2] for gpu in self.machine.gpus))
        parts = [self.machine.system, *gpus, *([f"driver {self.machine.driver}"] if self.machine.driver else [])]
        kind = "-".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") for part in parts)
        return f"{self.env}/{self.lock_sha256[:12]}-{self.platform}-{kind}-{self.client}.json"


def evidence_json(record: Evidence) -> str:
    """Return the text of a record's file: the same bytes for the same record."""
    return record.model_dump_json(indent=1, exclude_none=True) + "\n"


def evidence_schema() -> str:
    """Return the JSON schema of a record."""
    return json.dumps(Evidence.model_json_schema(), indent=1) + "\n"

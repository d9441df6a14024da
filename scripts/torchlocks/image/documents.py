"""The JSON documents of OCI images: media types, models of untrusted documents, and encoding.

The names and limits are those of the OCI image specification 1.1. Libraries on PyPI talk to registries (oras) or only
mirror the specification's structs (opencontainers); none writes a layout, so these are our own.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CYCLONEDX = "application/vnd.cyclonedx+json"

INDEXES = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = (MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
CONFIGS = (CONFIG, "application/vnd.docker.container.image.v1+json")
LAYERS = {
    LAYER: "none",
    f"{LAYER}+gzip": "gzip",
    f"{LAYER}+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
"""Media types of layers that are read, with their compression. Docker's have the same bytes under another name."""

REF_NAME = "org.opencontainers.image.ref.name"

ARCHITECTURES = {
    "linux-64": "amd64",
    "linux-aarch64": "arm64",
    "linux-ppc64le": "ppc64le",
    "linux-s390x": "s390x",
    "linux-riscv64": "riscv64",
}
"""The architecture, as images name it, of each platform that an image can be made for."""

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Annotations = Annotated[dict[str, str] | None, Field(max_length=1000)]


class _Read(BaseModel):
    """An untrusted document; unknown members are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Descriptor(_Read):
    """A reference to a blob, with its size in bytes."""

    media_type: str = Field(alias="mediaType")
    digest: Digest
    size: int = Field(ge=0)
    annotations: _Annotations = None
    artifact_type: str | None = Field(default=None, alias="artifactType")

    @property
    def name(self) -> str | None:
        """The name under which an index lists an image."""
        return (self.annotations or {}).get(REF_NAME)


class Index(_Read):
    manifests: list[Descriptor] = Field(max_length=1000)


class Manifest(_Read):
    config: Descriptor
    # 127 is the most that overlayfs, and so Docker, can stack.
    layers: list[Descriptor] = Field(max_length=127)
    artifact_type: str | None = Field(default=None, alias="artifactType")


class RootFs(_Read):
    type: str = "layers"
    diff_ids: list[Digest] = Field(max_length=127)


class Settings(_Read):
    """What a container of the image starts with. The names are those of the document."""

    Env: list[str] | None = None
    Entrypoint: list[str] | None = None
    Cmd: list[str] | None = None
    Labels: _Annotations = None
    User: str | None = None
    WorkingDir: str | None = None
    StopSignal: str | None = None
    ExposedPorts: dict[str, dict[str, Any]] | None = None
    Volumes: dict[str, dict[str, Any]] | None = None


class Config(_Read):
    architecture: str
    os: str
    variant: str | None = None
    config: Settings | None = None
    rootfs: RootFs
    history: list[dict[str, Any]] | None = Field(default=None, max_length=1000)


def encode(document: Any) -> bytes:
    """Return a document as JSON: the same bytes for the same content."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    """Return the descriptor of a document."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(data)}

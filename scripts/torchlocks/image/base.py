"""The image below the environment: an OCI layout (a folder or a tar), the tar of a file system, or nothing.

Sizes and digests of all copied blobs and of the decompressed layers are verified; documents are limited in size and
validated by models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ValidationError

from torchlocks.core.errors import ImageError, MissingFileError
from torchlocks.core.progress import Progress, Task
from torchlocks.core.reading import load_json
from torchlocks.image import documents as oci
from torchlocks.image.blobs import BLOCK, Layout
from torchlocks.image.compression import Compression, compressed, decompressed, guess
from torchlocks.image.scan import Contents, scan
from torchlocks.image.source import Source, opened, readable

_DOCUMENT_BYTES = 4 << 20
"""Size limit of a manifest or configuration in bytes, as in registries."""
_NESTED = 3

_M = TypeVar("_M", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class BaseImage:
    """A base whose layers are in the new layout; empty without a base.

    `layers` are descriptors, `diff_ids` the digests of the decompressed layers, `name` and `digest` those of the
    manifest where it was an image.
    """

    contents: Contents
    layers: list[dict[str, Any]] = field(default_factory=list)
    diff_ids: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    settings: oci.Settings = field(default_factory=oci.Settings)
    variant: str | None = None
    name: str | None = None
    digest: str | None = None


def base_bytes(path: Path | None) -> int:
    """Estimate the bytes of a base in an image from its files."""
    if path is None:
        return 0
    files = path.glob("blobs/sha256/*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def take_base(
    path: Path | None,
    name: str | None,
    platform: str,
    prefix: str,
    layout: Layout,
    compression: Compression,
    progress: Progress,
) -> BaseImage:
    """Copy the layers of a base into `layout`, verified.

    `name` is that of an image in a layout with several, `prefix` where the environment will be, without a leading
    slash; `compression` is for the tar of a file system. Raises ImageError for an unsuitable base, MissingFileError for
    a missing one, OSError if the layout cannot be written.
    """
    contents = Contents(prefix)
    if path is None:
        return BaseImage(contents=contents)
    if not path.exists():
        raise MissingFileError("The base does not exist.", where=str(path), fix="name a file or folder: BASE=PATH")
    with opened(path) as source:
        if source is not None:
            base = _take_image(source, name, platform, contents, layout, progress)
        elif name is not None:
            raise ImageError("The base is the tar of a file system, and has no names.", where=f"{path}: {name!r}")
        else:
            base = _take_rootfs(path, contents, layout, compression, progress)
    contents.refuse_taken()
    return base


# --- OCI layouts ------------------------------------------------------------------------------------------------------


def _take_image(
    source: Source, name: str | None, platform: str, contents: Contents, layout: Layout, progress: Progress
) -> BaseImage:
    chosen, manifest, config = _choose(source, name, platform)
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise ImageError("The base's manifest and configuration have different numbers of layers.", where=source.where)
    layers = []
    total = sum(layer.size for layer in manifest.layers)
    with progress.task("Reading the base", total, unit="bytes") as task:
        for layer, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True):
            kind = oci.LAYERS.get(layer.media_type)
            if kind is None:
                raise ImageError(
                    "The base has a layer of an unsupported type.", where=f"{source.where}: {layer.media_type}"
                )
            _copy(source, layer, layout, task)
            with layout.path(layer.digest).open("rb") as file:
                found = scan(
                    decompressed(file, kind), contents, f"{source.where}: {layer.digest}", rootfs=False, on_read=_ignore
                )
            if found != diff_id:
                raise _wrong(source, layer.digest, f"its content has {found}, and not {diff_id}")
            suffix = "" if kind == "none" else f"+{kind}"
            layers.append({"mediaType": oci.LAYER + suffix, "digest": layer.digest, "size": layer.size})
    history = config.history or []
    if sum(not entry.get("empty_layer") for entry in history) != len(layers):
        history = [{"created_by": "the base"} for _ in layers]
    return BaseImage(
        contents=contents,
        layers=layers,
        diff_ids=list(config.rootfs.diff_ids),
        history=history,
        settings=config.config or oci.Settings(),
        variant=config.variant,
        name=chosen.name,
        digest=chosen.digest,
    )


def _choose(source: Source, name: str | None, platform: str) -> tuple[oci.Descriptor, oci.Manifest, oci.Config]:
    """Return the one image for the platform: its descriptor, manifest and configuration."""
    try:
        with source.open(oci.INDEX_FILE) as file:
            data = _all(file, source, oci.INDEX_FILE)
    except (OSError, KeyError):
        raise ImageError("The base has no index.json that can be read.", where=source.where) from None
    architecture = oci.ARCHITECTURES[platform]
    found: dict[str, tuple[oci.Descriptor, oci.Manifest, oci.Config]] = {}
    others: set[str] = set()
    waiting = [(each, each.name, 0) for each in _parse(oci.Index, data, source, oci.INDEX_FILE).manifests]
    seen: set[str] = set()
    while waiting:
        each, named, depth = waiting.pop()
        if each.digest in seen or (name is not None and named != name):
            continue
        seen.add(each.digest)
        if each.media_type in oci.INDEXES and depth < _NESTED:
            inner = _parse(oci.Index, _document(source, each), source, each.digest)
            waiting += [(child, named, depth + 1) for child in inner.manifests]
            continue
        if each.media_type not in oci.MANIFESTS or each.artifact_type:
            continue
        manifest = _parse(oci.Manifest, _document(source, each), source, each.digest)
        if manifest.artifact_type or manifest.config.media_type not in oci.CONFIGS:
            continue
        config = _parse(oci.Config, _document(source, manifest.config), source, manifest.config.digest)
        if (config.os, config.architecture) == ("linux", architecture):
            found[each.digest] = (each.model_copy(update={"annotations": {oci.REF_NAME: named}}), manifest, config)
        else:
            others.add(f"{config.os}/{config.architecture}")
    if len(found) == 1:
        return next(iter(found.values()))
    names = sorted({each.name for each, _, _ in found.values() if each.name})
    if found:
        raise ImageError(
            f"The base has {len(found)} images for linux/{architecture}.",
            where=source.where,
            fix=f"name one (torchlocks image --base-name): {', '.join(names) or 'copy the one that is meant'}",
        )
    there = f"; it has {', '.join(sorted(others))}" if others else ""
    raise ImageError(
        f"The base has no image{f' named {name!r}' if name else ''} for linux/{architecture}{there}.",
        where=source.where,
        fix="name another base, or another platform",
    )


def _document(source: Source, wanted: oci.Descriptor) -> bytes:
    with _blob(source, wanted) as file:
        data = _all(file, source, wanted.digest)
    if len(data) != wanted.size or hashlib.sha256(data).hexdigest() != wanted.digest.removeprefix("sha256:"):
        raise _wrong(source, wanted.digest, "its content is another")
    return data


def _all(file: IO[bytes], source: Source, what: str) -> bytes:
    data = file.read(_DOCUMENT_BYTES + 1)
    if len(data) > _DOCUMENT_BYTES:
        raise _wrong(source, what, "it is too large")
    return data


def _copy(source: Source, wanted: oci.Descriptor, layout: Layout, task: Task) -> None:
    size = 0
    with _blob(source, wanted) as file, layout.writer() as (write, written):
        while block := file.read(BLOCK):
            size += len(block)
            if size > wanted.size:
                break
            write(block)
            task.advance(len(block))
    if size != wanted.size or written.digest != wanted.digest:
        raise _wrong(source, wanted.digest, "its content is another")


@contextmanager
def _blob(source: Source, wanted: oci.Descriptor) -> Iterator[IO[bytes]]:
    try:
        file = source.open(f"blobs/sha256/{wanted.digest.removeprefix('sha256:')}")
    except (OSError, KeyError):
        raise _wrong(source, wanted.digest, "it is not there, or cannot be read") from None
    with file:
        yield file


def _parse(model: type[_M], data: bytes, source: Source, what: str) -> _M:
    try:
        return model.model_validate(load_json(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except ValueError as error:
        why = str(error)
    raise _wrong(source, what, f"it is not valid ({why[:300]})")


def _wrong(source: Source, what: str, why: str) -> ImageError:
    return ImageError(
        f"The base is damaged or was tampered with: {why}.", where=f"{source.where}: {what}", fix="copy the base again"
    )


def _ignore(count: int) -> None: ...


# --- tars of file systems ---------------------------------------------------------------------------------------------


def _take_rootfs(
    path: Path, contents: Contents, layout: Layout, compression: Compression, progress: Progress
) -> BaseImage:
    with readable(path) as file:
        kind = guess(file.read(6))
        if kind is None:
            raise ImageError(
                "The base has an unsupported compression.",
                where=str(path),
                fix="decompress it, or use gzip or Zstandard",
            )
        file.seek(0)
        with (
            progress.task("Reading the base", unit="bytes") as task,
            layout.writer() as (write, written),
            compressed(compression, write) as sink,
        ):
            blocks = _through(decompressed(file, kind), sink.write)
            diff_id = scan(blocks, contents, str(path), rootfs=True, on_read=task.advance)
    suffix = "" if compression == "none" else f"+{compression}"
    return BaseImage(
        contents=contents,
        layers=[{"mediaType": oci.LAYER + suffix, "digest": written.digest, "size": written.size}],
        diff_ids=[diff_id],
        history=[{"created_by": "the tar of a file system"}],
    )


def _through(blocks: Iterator[bytes], write: Callable[[bytes], object]) -> Iterator[bytes]:
    for block in blocks:
        write(block)
        yield block

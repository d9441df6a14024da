"""A lock → an image: packages into the cache, linked into a folder, packed into layers below the base's.

The environment's files have the image's prefix patched in, and are never at that path of this machine. No code of a
package is run. The same lock, base and compression give the same bytes: files are sorted and belong to root, times and
modes are fixed, and paths of this machine are removed from records.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from torchlocks.core.disk import disk_of, require_space, scratch_beside, written_to
from torchlocks.core.errors import ImageError, LockfileError, MissingFileError
from torchlocks.core.package_cache import cache_folder
from torchlocks.core.quantities import shortened
from torchlocks.core.systems import here
from torchlocks.export.sbom import cyclonedx
from torchlocks.image import documents as oci
from torchlocks.image.base import BaseImage, base_bytes, take_base
from torchlocks.image.blobs import Layout, Written
from torchlocks.image.compression import Compression, compressed
from torchlocks.image.config import CREATED, annotations_of, config_document, created, valid_prefix, write_entry_point
from torchlocks.image.layers import Layer, plan_layers, settle_records, size_of, write_layer
from torchlocks.image.output import move_layout, refuse_other
from torchlocks.install.exclusive import interruptible
from torchlocks.install.fetch import ensure_cached
from torchlocks.install.fetch_options import FetchOptions, packages_for, require_hashes, with_variables
from torchlocks.install.installer import describe, write_history
from torchlocks.install.link import link
from torchlocks.install.provenance import Origin, write_provenance

if TYPE_CHECKING:
    from torchlocks.core.layout import Layout as Checkout
    from torchlocks.core.progress import Progress, Task
    from torchlocks.export.environment import LockedTarget

PREFIX = "/opt/env"
"""Where the environment is in an image, unless another path is named."""

# Files of packages are some three times as large as their archives, and half of that as compressed layers.
_UNPACKED, _LAYERS = 3.5, 1.6


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """The inputs of an image.

    `base` is an OCI image layout (a folder or a tar), the tar of a file system, or None; `base_name` the name of one
    image in a layout. `prefix` is the path of the environment in the image, `channel` is recorded as the source of its
    packages.
    """

    base: Path | None = None
    base_name: str | None = None
    prefix: str = PREFIX
    compression: Compression = "gzip"
    channel: str = "lock"
    fetch: FetchOptions


@dataclass(frozen=True, kw_only=True)
class PackedLayer:
    """A layer of the environment: its contents, its number of packages, and its size in bytes as it is stored."""

    group: str
    packages: int
    size: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that was written: its path, the name in the layout, and the digest of its manifest."""

    path: Path
    name: str
    digest: str
    sbom_digest: str
    layers: tuple[PackedLayer, ...]
    size: int


def find_image_lock(checkout: Checkout, env: str, platform: str | None, *, local: bool) -> LockedTarget:
    """Return the lock of an environment of the matrix, its `local` one, or that of any file.

    Raises as `find_locked` does, and MissingFileError where there is no local lock.
    """
    from torchlocks.export.environment import find_locked, is_lockfile

    if not local or is_lockfile(env):
        return find_locked(env, platform)
    path = checkout.local_locks / env / "conda-lock.yml"
    if not path.is_file():
        raise MissingFileError(
            f"There is no local lock of {env}.", where=str(path), fix="make env-cpu CHANNEL=local makes one"
        )
    return find_locked(str(path), platform)


def make_image(locked: LockedTarget, output: Path, options: ImageOptions, progress: Progress) -> Image:
    """Write the image of a locked environment to `output`: a tar if its name ends in `.tar`, else a folder.

    It is written in one step, which replaces an older image. Raises ImageError if the lock or a path is not suitable,
    LockfileError for locks with packages that are not conda's, DiskFullError, InterruptedByUserError, and what
    fetching, linking and `take_base` raise.
    """
    prefix = valid_prefix(options.prefix)
    _require_possible(locked)
    output = output.absolute()
    refuse_other(output)
    packages = packages_for(locked.lock, locked.platform)
    require_hashes(packages, allow_md5=options.fetch.allow_md5)
    fetch = with_variables(options.fetch, locked.lock, packages, progress)
    writing = written_to(output, ImageError, "The image", "name another path (torchlocks image --output)")
    with interruptible(), writing, scratch_beside(output) as scratch:
        _require_room(locked, output, options)
        layout = Layout(scratch / "layout")
        base = take_base(
            options.base, options.base_name, locked.platform, prefix, layout, options.compression, progress
        )
        _warn_of_base(base, options, progress)
        entries = ensure_cached(packages, fetch, progress)
        staged = scratch / "environment"
        staged.mkdir()
        link(
            entries,
            locked.platform,
            staged,
            Path(f"/{prefix}"),
            corrected=locked.lock.kind == "pixi",
            scratch=scratch / "cache",
            progress=progress,
        )
        _finish_environment(locked, staged, prefix, options)
        start = write_entry_point(staged, prefix, base)
        if start.entry_point == ():
            progress.warn("The environment has activation scripts, and neither it nor the base has a shell to run them")
        planned = plan_layers(staged, packages)
        above = _missing_folders(prefix, base)
        with progress.task("Writing layers", sum(size_of(each, staged) for each in planned), unit="bytes") as task:
            packed = [_pack(each, staged, prefix, above, layout, options.compression, task) for each in planned]
        suffix = "" if options.compression == "none" else f"+{options.compression}"
        layers = [
            {
                "mediaType": oci.LAYER + suffix,
                "digest": written.digest,
                "size": written.size,
                "annotations": {"torchlocks.layer": each.group},
            }
            for each, written, _ in packed
        ]
        described = [(diff_id, f"{each.group}, {each.packages} packages") for each, _, diff_id in packed]
        config = config_document(locked, base, start, prefix, described)
        image, sbom = _write_documents(locked, layout, base, layers, config)
        shutil.rmtree(staged)
        size = move_layout(layout.folder, output, scratch, progress)
    return Image(
        path=output,
        name=locked.name,
        digest=image["digest"],
        sbom_digest=sbom["digest"],
        layers=tuple(
            PackedLayer(group=each.group, packages=each.packages, size=written.size, digest=written.digest)
            for each, written, _ in packed
        ),
        size=size,
    )


def _require_possible(locked: LockedTarget) -> None:
    if not here.UNIX:
        raise ImageError(
            "An image cannot be written on Windows, whose files have no modes and links as on Linux.",
            fix="run it in WSL, or on Linux or macOS",
        )
    if locked.platform not in oci.ARCHITECTURES:
        raise ImageError(
            f"Images are for Linux, and this lock is for {locked.platform}.",
            where=f"{locked.name}: {locked.lock.path}",
            fix=f"name one of its platforms: {', '.join(p for p in locked.platforms if p in oci.ARCHITECTURES)}",
        )
    left = [each.requirement for each in locked.lock.pip.get(locked.platform, ())]
    left += locked.lock.sources.get(locked.platform, ())
    if left:
        raise LockfileError(
            f"The lock names packages that are not conda packages, and would be missing: {shortened(left)}.",
            where=str(locked.lock.path),
            fix="take them out of the environment, and lock again.",
        )


def _require_room(locked: LockedTarget, output: Path, options: ImageOptions) -> None:
    archives = sum(each.size or 0 for each in locked.packages)
    needed = archives * _LAYERS + base_bytes(options.base)
    if disk_of(output.parent) != disk_of(cache_folder(options.fetch.cache)):
        needed += archives * _UNPACKED
    largest = max((each.size or 0 for each in locked.packages), default=0)
    if output.suffix == ".tar":
        # Blobs are removed as they are packed.
        needed += largest * _LAYERS
    require_space(
        output.parent,
        round(needed),
        "The image needs about",
        "make room, or name another disk (torchlocks image --output).",
    )


def _warn_of_base(base: BaseImage, options: ImageOptions, progress: Progress) -> None:
    if options.base is None:
        progress.warn(
            "Without a base the image has no C library: its files can be copied or mounted, and nothing runs in it"
        )
    elif not base.contents.glibc:
        progress.warn("The base has no GNU C library (Alpine has none, for one): programs of conda will not run in it")


def _finish_environment(locked: LockedTarget, staged: Path, prefix: str, options: ImageOptions) -> None:
    """Write the environment's own records, with nothing of this machine or this time in them."""
    settle_records(staged)
    packages = packages_for(locked.lock, locked.platform)
    made = describe(
        locked.lock,
        locked.platform,
        PurePosixPath(f"/{prefix}"),
        Origin(name=locked.name, channel=options.channel),
        packages,
        locked.lock.sha256[:8],
        staged,
    )
    made = replace(made, installed_at=created(locked).isoformat(timespec="seconds"))
    write_history(staged, packages, made)
    write_provenance(staged, made)


def _missing_folders(prefix: str, base: BaseImage) -> list[str]:
    """The folders above the prefix that the base does not have; those that it has keep their modes."""
    parts = prefix.split("/")[:-1]
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    return [folder for folder in above if not base.contents.has_folder(folder)]


def _pack(
    layer: Layer,
    staged: Path,
    prefix: str,
    above: list[str],
    layout: Layout,
    compression: Compression,
    task: Task,
) -> tuple[Layer, Written, str]:
    """Write a layer's blob; returns it with the digest of the tar in it."""
    plain = hashlib.sha256()
    with layout.writer() as (write, written), compressed(compression, write) as packer:

        class Hashing:
            def write(self, data: bytes) -> None:
                plain.update(data)
                packer.write(data)

        write_layer(layer, staged, prefix, above, Hashing(), task)
    return layer, written, f"sha256:{plain.hexdigest()}"


def _write_documents(
    locked: LockedTarget,
    layout: Layout,
    base: BaseImage,
    layers: list[dict[str, Any]],
    config: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write configuration, manifests, bill of materials and index; returns the descriptors of image and bill.

    The bill is a referrer: a manifest whose `subject` is the image. Registries list those of an image, and a layout has
    them in its index.
    """
    annotations = annotations_of(locked, base)
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": layout.add(oci.CONFIG, oci.encode(config)),
        "layers": [*base.layers, *layers],
        "annotations": annotations,
    }
    image = layout.add(oci.MANIFEST, oci.encode(manifest))
    bill = layout.add(oci.CYCLONEDX, cyclonedx(locked).encode())
    referrer = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "artifactType": oci.CYCLONEDX,
        # Written out as a blob, too: not every client knows the member `data`.
        "config": {**layout.add(oci.EMPTY, b"{}"), "data": "e30="},
        "layers": [{**bill, "annotations": {"org.opencontainers.image.title": f"{locked.name}.cdx.json"}}],
        "subject": image,
        "annotations": {CREATED: annotations[CREATED]},
    }
    sbom = layout.add(oci.MANIFEST, oci.encode(referrer))
    platform = {"architecture": config["architecture"], "os": config["os"]}
    if "variant" in config:
        platform["variant"] = config["variant"]
    listed = [
        {**image, "platform": platform, "annotations": {oci.REF_NAME: locked.name}},
        {**sbom, "artifactType": oci.CYCLONEDX},
    ]
    layout.finish(listed)
    return image, sbom

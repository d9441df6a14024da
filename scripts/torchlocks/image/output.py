"""Write an image to its path in one step: a folder or a tar, replacing nothing but an older image."""

from __future__ import annotations

from pathlib import Path

from torchlocks.core.errors import ImageError
from torchlocks.core.progress import Progress
from torchlocks.image import documents as oci
from torchlocks.image.blobs import pack_layout


def refuse_other(output: Path) -> None:
    """Raise ImageError if `output` exists and is not an image."""
    is_image = (output / oci.LAYOUT_FILE).is_file() if output.is_dir() else output.is_file()
    empty = output.is_dir() and not any(output.iterdir())
    if output.exists() and not (is_image or empty):
        raise ImageError(
            "This path exists and is not an image, so it is not overwritten.",
            where=str(output),
            fix="name another path (torchlocks image --output)",
        )
    if output.exists() and output.is_dir() == (output.suffix == ".tar"):
        raise ImageError(
            "A name that ends in .tar is that of a file; any other is that of a folder.",
            where=str(output),
            fix="name another path (torchlocks image --output), or remove the existing file",
        )


def move_layout(made: Path, output: Path, scratch: Path, progress: Progress) -> int:
    """Move the finished layout to `output`, as a tar where that is its name; returns its size in bytes."""
    size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    if output.suffix == ".tar":
        packed = scratch / "layout.tar"
        with progress.task("Writing the tar", size, unit="bytes") as task, packed.open("wb") as file:
            pack_layout(made, file, task)
        size = packed.stat().st_size
        packed.replace(output)
        return size
    if output.exists():
        output.rename(scratch / "previous")
    made.rename(output)
    return size

"""Drawings of one environment: what makes it large, and what torch needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchlocks.core.quantities import size
from torchlocks.cuda.packages import TORCH_FAMILY, TORCH_NAMES, is_cuda_package, torch_package
from torchlocks.pages.draw import Node, Part, layered, shares
from torchlocks.site.catalogue import Cell
from torchlocks.solve.why import edges_of

if TYPE_CHECKING:
    from markupsafe import Markup

    from torchlocks.lockfile.models import LockedPackage

#: Math libraries and OpenMP runtimes, shown with CUDA's packages in the dependency graph.
_MATH = frozenset((
    "mkl", "libblas", "libcblas", "liblapack", "liblapacke", "libopenblas", "openblas", "blas", "tbb", "onednn",
    "libhwloc", "llvm-openmp", "intel-openmp", "libgomp", "_openmp_mutex", "numpy",
))  # fmt: skip


def _kind(package: LockedPackage) -> str:
    if package.name in TORCH_NAMES or package.name in TORCH_FAMILY:
        return "PyTorch"
    if is_cuda_package(package):
        return "CUDA libraries"
    if package.name in _MATH:
        return "math and OpenMP"
    return "Python" if package.name == "python" else "everything else"


def size_picture(cell: Cell) -> Markup:
    """Return a drawing of the download size by purpose of the packages."""
    amounts: dict[str, int] = {}
    for package in cell.packages:
        amounts[_kind(package)] = amounts.get(_kind(package), 0) + (package.size or 0)
    parts = [Part(name, amount, size(amount)) for name, amount in sorted(amounts.items(), key=lambda item: -item[1])]
    return shares(parts, "Download", "s")


def installed_picture(cell: Cell) -> Markup | None:
    """Return a drawing of the bytes on disk by package, None if no environment of this row is installed here."""
    if not cell.installed:
        return None
    ordered = sorted(cell.installed.items(), key=lambda item: -item[1])
    parts = [Part(name, amount, size(amount)) for name, amount in ordered[:4]]
    rest = sum(amount for _, amount in ordered[4:])
    if rest:
        parts.append(Part(f"{len(ordered) - 4} more", rest, size(rest)))
    return shares(parts, "Installed", "i")


def shown_needs(cell: Cell) -> dict[str, list[str]]:
    """Return the dependencies from torch down to CUDA's and the math libraries, without all other packages."""
    torch = torch_package(cell.packages)
    assert torch is not None, "read_catalogue refuses a lock without torch"
    shown = {
        package.name
        for package in cell.packages
        if (is_cuda_package(package) or package.name in _MATH or package.name in (*TORCH_NAMES, *TORCH_FAMILY))
        and package.name != "cuda-version"  # A package without files, which all of them depend on.
    }
    edges = {
        name: [end for end in needed if end in shown and end != name]
        for name, needed in edges_of(cell.packages).items()
        if name in shown
    }
    reached = [torch.name]
    for name in reached:
        reached += [end for end in edges[name] if end not in reached]
    return {name: edges[name] for name in reached}


def chains_picture(cell: Cell) -> Markup:
    needs = shown_needs(cell)
    by_name = {package.name: package for package in cell.packages}
    nodes = [
        Node(name, name if len(name) < 24 else f"{name[:22]}…", _short(by_name[name]), is_cuda_package(by_name[name]))
        for name in needs
    ]
    root = next(iter(needs))
    return layered(nodes, needs, root, f"What {root} needs, of CUDA and of math libraries: {len(needs)} packages")


def _short(package: LockedPackage) -> str:
    version = package.version if len(package.version) < 13 else f"{package.version[:12]}…"
    return f"{version}, {size(package.size)}"

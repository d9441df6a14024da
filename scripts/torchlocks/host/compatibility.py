"""Whether an environment is compatible with a machine, and why not. Pure functions of values; no I/O.

The rules are NVIDIA's; each function names the document that it follows. `driver_rules` and `gpu_rules` have those on
drivers and on GPUs, `needs` the values.
"""

from __future__ import annotations

from packaging.version import Version

from torchlocks.cuda.libraries import Limit
from torchlocks.cuda.packages import variant_of
from torchlocks.host.driver_rules import driver_reasons
from torchlocks.host.gpu_rules import gpu_reasons
from torchlocks.host.needs import Compatibility, CudaNeeds, Kind, Needs, Reason, State
from torchlocks.host.record import Host
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target


def needs_of(matrix: Matrix, target: Target, libraries: tuple[Limit, ...] = ()) -> Needs:
    """Return what `target` requires of a machine, by the matrix."""
    cuda = None
    if target.cuda is not None:
        variant = variant_of(target.build)
        toolkit = (variant.cuda if variant else None) or target.cuda
        cuda = CudaNeeds(
            version=target.cuda,
            toolkit=toolkit,
            drivers=matrix.drivers[target.cuda],
            toolkit_drivers=matrix.drivers.get(toolkit),
            # Libraries give reasons of their own; without a lock, the architectures of the row are used.
            architectures=target.torch_architectures if libraries else target.architectures,
            ptx=target.ptx,
            libraries=libraries,
        )
    return Needs(
        env=target.env,
        platform=target.platform,
        glibc=target.glibc,
        osx=target.virtual_packages.get("__osx"),
        cuda=cuda,
        holds=target.holds,
    )


def check_compatibility(needs: Needs, host: Host) -> Compatibility:
    """Return whether the environment is compatible with the machine, with reasons."""
    reasons = _system_reasons(needs, host)
    gpus: tuple[int, ...] = ()
    if needs.cuda is not None and not _blocked(reasons):
        reasons += driver_reasons(needs.cuda, host)
        if host.has_driver and host.problem is None:
            found, able = gpu_reasons(needs.cuda, host)
            if not _blocked(reasons):
                reasons, gpus = reasons + found, able
            elif all(reason.kind == "driver-floor" for reason in reasons):
                # A driver can be replaced and a GPU cannot, so both reasons are reported.
                reasons += [reason for reason in found if reason.kind == "architecture"]
    return Compatibility(
        env=needs.env,
        platform=needs.platform,
        cuda=needs.cuda.version if needs.cuda else None,
        state=_state(reasons, gpus),
        reasons=tuple(reasons),
        gpus=gpus,
        holds=needs.holds,
    )


def _system_reasons(needs: Needs, host: Host) -> list[Reason]:
    if needs.platform != host.platform:
        return [Reason(kind="platform", weight="blocks", text=f"it is for {needs.platform}, this is {host.platform}")]
    reasons: list[Reason] = []
    pairs: tuple[tuple[Kind, str, str | None, str | None], ...] = (
        ("glibc", "glibc", needs.glibc, host.glibc),
        ("osx", "macOS", needs.osx, host.osx),
    )
    for kind, name, needed, there in pairs:
        if needed is None:
            continue
        if there is None:
            text = f"it needs {name} {needed} or newer; none is known of this machine"
            reasons.append(Reason(kind=kind, weight="blocks", text=text))
        elif Version(there) < Version(needed):
            reasons.append(
                Reason(
                    kind=kind,
                    weight="blocks",
                    text=f"it was solved for {name} {needed} or newer; this machine has {there}",
                    fix=f"use a system with {name} {needed} or newer, or a container of one",
                )
            )
    return reasons


def _blocked(reasons: list[Reason]) -> bool:
    return any(reason.weight == "blocks" and not reason.gpus for reason in reasons)


def _state(reasons: list[Reason], gpus: tuple[int, ...]) -> State:
    if _blocked(reasons):
        return "does-not-run"
    if gpus:  # At least one GPU runs it, whatever the others do.
        return "runs-with-remark" if reasons else "runs"
    if any(reason.weight == "open" for reason in reasons):
        return "unknown"
    if any(reason.weight == "blocks" for reason in reasons):
        return "does-not-run"
    return "runs-with-remark" if reasons else "runs"

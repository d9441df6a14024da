"""Whether torch in this process can use the machine's GPU, and why not."""

from __future__ import annotations

from typing import Any

from torchsuite.tiers import machine


def obstacle(torch: Any) -> str | None:
    """Why a check on a GPU cannot be run here; None where it can."""
    if absence := machine().absence():
        return absence
    if reason := reason_unused(torch):
        return f"not run: {reason}"
    return None


def reason_unused(torch: Any) -> str | None:
    """Why a GPU of this machine is not used: the driver's reasons first, then torch's own; None where it is."""
    if reason := machine().reason_unused():
        return reason
    has = f"the machine has {machine().describe()}"
    if torch.version.cuda is None:
        return f"{has}, but torch {torch.__version__} is a build for the CPU"
    if torch.cuda.is_available():
        return None
    try:
        torch.cuda.init()
    except Exception as error:
        return f"{has}, but torch does not use it: {str(error).splitlines()[0]}"
    return f"{has}, but torch.cuda.is_available() returns False"

"""The tiers of checks, in the order they run; standard library only, for those who read reports."""

from __future__ import annotations

#: static: the prefix against the lock, nothing imported. import: torch in separate processes.
#: cpu: computation. mps: the GPU of a Mac. cuda-build: a CUDA build, no GPU needed. gpu, multi-gpu: one GPU, two or
#: more. multi-node: several machines.
TIERS = ("static", "import", "cpu", "mps", "cuda-build", "gpu", "multi-gpu", "multi-node")

#: Tiers that need a device, or other machines, for themselves: one process of a run runs them, one check at a time.
ON_DEVICES = ("mps", "gpu", "multi-gpu", "multi-node")


def tier_of(name: str) -> str:
    """The tier of a test file, or of a check by its id. Raises ValueError when the name contains none."""
    for tier in sorted(TIERS, key=len, reverse=True):
        if name.startswith(f"test_{tier.replace('-', '_')}_"):
            return tier
    raise ValueError(f"{name}: a test file of this suite is called test_<tier>_<topic>.py")

"""Results of `make bench`: ratios, curves, and what could not be compared."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from statistics import median, quantiles

from pydantic import BaseModel, ConfigDict, computed_field


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Machine(_Value):
    """The machine of the figures, without its name."""

    system: str
    architecture: str
    cpu: str
    cores: int
    memory_gib: float
    python: str
    load: float
    """The load average of the minute before the measurements: above zero, others were at work too."""


class Measure(_Value):
    """A subject and its reference: seconds for each round, alternating. Memory is in MiB, the peak of one run."""

    group: str
    name: str
    reference: str
    seconds: tuple[float, ...]
    reference_seconds: tuple[float, ...]
    memory_mib: float | None = None
    reference_memory_mib: float | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio(self) -> float:
        """Median over median."""
        return median(self.seconds) / median(self.reference_seconds)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def spread(self) -> float:
        """The distance between the quartiles of the subject's times, as a part of their median."""
        if len(self.seconds) < 3:
            return (max(self.seconds) - min(self.seconds)) / median(self.seconds)
        low, _, high = quantiles(self.seconds, n=4)
        return (high - low) / median(self.seconds)


class Curve(_Value):
    """The cost of something as it grows: seconds by size, and by stage at the largest size."""

    name: str
    unit: str
    sizes: tuple[float, ...]
    seconds: tuple[float, ...]
    memory_mib: tuple[float, ...] = ()
    """The peak of all processes together, by size; empty if it was not measured."""
    stages: Mapping[str, float] = {}
    """Seconds by stage, one after another on one core."""
    note: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def exponent(self) -> float | None:
        """The slope of log(seconds) over log(size) by least squares, on the larger half of the sizes, three at least.

        1 is linear. At small sizes fixed costs hide what grows. None where there are not two points.
        """
        count = max(3, (len(self.sizes) + 1) // 2)
        return slope(self.sizes[-count:], self.seconds[-count:])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def memory_exponent(self) -> float | None:
        """The same slope for memory."""
        count = max(3, (len(self.sizes) + 1) // 2)
        return slope(self.sizes[-count:], self.memory_mib[-count:]) if self.memory_mib else None


class Check(_Value):
    """One check of the torch suite, and the seconds it took."""

    name: str
    seconds: float


class Bench(_Value):
    """All measurements. `absent` are peers that are not installed, and so were not compared with."""

    schema_version: int = 2
    machine: Machine
    measures: tuple[Measure, ...]
    curves: tuple[Curve, ...] = ()
    slowest_checks: tuple[Check, ...] = ()
    absent: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """What was not measured, and why."""


def slope(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Return the slope of log y over log x by least squares; None for fewer than two different x."""
    points = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True)]
    if len({x for x, _ in points}) < 2:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def this_machine() -> Machine:
    """Return the machine that this runs on."""
    import psutil

    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        python=platform.python_version(),
        load=round(psutil.getloadavg()[0], 1),
    )


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a device, not a file
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"

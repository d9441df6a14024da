"""The closed list of reasons for which a required check may be skipped without a gap in the verdict.

Each is a fact about the machine, the platform or the release of torch that the environment cannot change. A check
raises one with `skip`; the code travels in front of the message, and the plugin separates them again. Any other skip
of a required check is a gap that the headline names.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NoReturn


class Reason(str, Enum):
    """Why a required check does not apply; the values are the codes in reports (`skip`)."""

    NO_LOCK = "no-lock"  # nothing promises what the environment contains
    NOT_CONDA = "not-conda"  # no package records to compare with
    OTHER_ACCELERATOR = "other-accelerator"  # the check is for environments of the other kind
    NO_ROW = "no-row"  # no row of a matrix promises what would be compared
    GPU_TOO_OLD = "gpu-too-old"  # the compute capability is below what the feature needs
    PLATFORM = "platform"  # the operating system or processor has no such thing
    RELEASE = "release"  # this release of torch does not have it on this Python
    ABSENT = "absent"  # an optional package is not part of this environment
    ONE_CORE = "one-core"  # the machine has one core


_CODED = re.compile(r"\[([a-z-]+)\] (.*)", re.DOTALL)


def skip(reason: Reason, text: str) -> NoReturn:
    """Skip the running check for a reason of the closed list; `text` is the message."""
    import pytest

    pytest.skip(coded(reason, text))


def coded(reason: Reason, text: str) -> str:
    """The message that carries a reason: `[gpu-too-old] bf16 needs …`."""
    return f"[{reason.value}] {text}"


def split(message: str) -> tuple[str | None, str]:
    """The code and the text of a skip's message. The code is None where it is not one of the closed list."""
    match = _CODED.fullmatch(message)
    if match and match[1] in {reason.value for reason in Reason}:
        return match[1], match[2]
    return None, message

"""The base class of values that are validated when they are created."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A validated value that does not change, and has no fields but those of its class."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

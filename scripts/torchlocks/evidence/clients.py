"""The programs that install a lock, as evidence names them. The command line imports this, and so it imports little."""

from __future__ import annotations

from typing import Literal

Client = Literal["torchlocks", "conda", "mamba", "micromamba", "pixi", "conda-lock"]

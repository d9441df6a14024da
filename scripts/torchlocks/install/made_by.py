"""Which client installed an environment, by what each leaves in `conda-meta`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from torchlocks.core.reading import TEXT_BYTES, read_text
from torchlocks.install.provenance import read_provenance

MadeBy = Literal["torchlocks", "conda", "mamba", "micromamba", "pixi", "unknown"]


def client_of(prefix: Path) -> MadeBy:
    """Return the client that installed the environment in `prefix`; `unknown` if nothing shows it.

    conda, mamba and micromamba write the command into `conda-meta/history`, pixi has a file of its own.
    """
    if read_provenance(prefix) is not None:
        return "torchlocks"
    if (prefix / "conda-meta" / "pixi").is_file():
        return "pixi"
    try:
        history = read_text(prefix / "conda-meta" / "history", TEXT_BYTES)
    except (OSError, UnicodeDecodeError):
        return "unknown"
    for program in re.findall(r"^# cmd: (\S+)", history, re.MULTILINE):
        name = re.sub(r"(\.exe|-script\.py|\.bat)$", "", re.split(r"[/\\]", program)[-1].lower())
        for known in ("micromamba", "mamba", "conda"):
            if name == known:
                return known
    return "unknown"

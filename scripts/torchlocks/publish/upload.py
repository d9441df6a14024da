"""Upload built packages to a channel of prefix.dev or Anaconda.org."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torchlocks.core.errors import ActionError, MissingFileError, RecipeError

Service = Literal["prefix", "anaconda"]

TOKEN = "CHANNEL_TOKEN"
"""The environment variable with the token: never an argument, which other users of a machine can see."""


def upload_packages(
    folder: Path, service: Service, channel: str, environ: Mapping[str, str], *, url: str | None = None
) -> list[Path]:
    """Upload every conda package below `folder` to a channel and return them; existing packages are skipped.

    `url` is the server, if not the public one. Raises ActionError without a token or for an invalid name,
    MissingFileError if there are no packages, RecipeError if the server refuses.
    """
    token = environ.get(TOKEN)
    if not token:
        raise ActionError(f"{TOKEN} is not set.", fix="give the token of the channel in this environment variable")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", channel):
        raise ActionError(f"{channel[:80]!r} is not the name of a channel.")
    files = sorted(path for path in folder.rglob("*.conda") if path.is_file())
    if not files:
        raise MissingFileError("There are no packages here.", where=str(folder), fix="build them: torchlocks recipes")
    import rattler_build

    names = [str(path) for path in files]
    try:
        if service == "prefix":
            rattler_build.upload_package_to_prefix(
                names, url or "https://prefix.dev", channel, api_key=token, skip_existing=True
            )
        else:
            rattler_build.upload_package_to_anaconda(names, channel, api_key=token, url=url)
    except Exception as error:  # rattler-build has several exception classes, and none in common.
        raise RecipeError(
            f"The packages could not be uploaded to {channel}.",
            where=service,
            fix="see the server's answer below; the token needs the right to upload",
            details=str(error).replace(token, "***"),
        ) from None
    return files

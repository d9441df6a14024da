"""Live channels: their records downloaded into the cache, whole (`repodata.json.zst`) or in shards (CEP 16).

All live records are read from files on disk afterwards, as those of a snapshot are: the solver's solution can depend on
the order of records.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, TypeVar

from torchlocks.core.errors import ChannelUnreachableError
from torchlocks.core.files import write_whole
from torchlocks.core.http import retry_after, trust_certificates
from torchlocks.lockfile.fields import channel_urls

if TYPE_CHECKING:
    from rattler import Client, RepoDataRecord, SparseRepoData

Result = TypeVar("Result")

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds to wait between tries at least; a server's Retry-After counts where it is longer."""


def fetch(channel: str, subdirs: Sequence[str], stand_ins: Mapping[str, Sequence[str]]) -> list[SparseRepoData]:
    """Download a live channel's records, in the order of `subdirs`, without missing ones.

    `stand_ins` are URLs of mirrors by the URL that they are used for. A channel without `repodata.json` is read in
    shards, if it has any. Raises ChannelUnreachableError if it cannot be read.
    """
    from rattler.networking import Client
    from rattler.networking.middleware import AuthenticationMiddleware, MirrorMiddleware, OciMiddleware

    from torchlocks.core.package_cache import cache_folder

    trust_certificates()
    by_url = {url: list(urls) for url, urls in stand_ins.items()}
    client = Client([MirrorMiddleware(by_url), AuthenticationMiddleware(), OciMiddleware()])
    cache = _cache(cache_folder().parent / "repodata", stand_ins)
    opened: list[SparseRepoData] = []
    # `defaults` is three channels.
    urls = channel_urls(channel) if channel == "defaults" else (channel,)
    for subdir, url in product(subdirs, urls):
        try:
            opened += _retried(lambda url=url, subdir=subdir: _whole(client, url, subdir, cache))  # type: ignore[misc]
        except Exception as error:
            if not _is_absent(error):
                raise _unreachable(channel, error) from error
            try:
                opened += _retried(lambda url=url, subdir=subdir: _shards(client, url, subdir, cache))  # type: ignore[misc]
            except Exception as second:
                if not _is_absent(second):
                    raise _unreachable(channel, second) from second
    return opened


def _whole(client: Client, url: str, subdir: str, cache: Path) -> list[SparseRepoData]:
    from rattler import Channel
    from rattler.networking import fetch_repo_data
    from rattler.platform import Subdir

    async def download() -> list[SparseRepoData]:
        return await fetch_repo_data(
            channels=[Channel(url)], platforms=[Subdir(subdir)], cache_path=cache, callback=None, client=client
        )

    return asyncio.run(download())


def _shards(client: Client, url: str, subdir: str, cache: Path) -> list[SparseRepoData]:
    """Download all shards of a channel's subdir, and keep them as one `repodata.json`; nothing where it has none."""
    from rattler import Channel, Gateway, SparseRepoData
    from rattler.platform import Subdir

    async def download() -> list[RepoDataRecord]:
        gateway = Gateway(cache_dir=cache / "shards", client=client)
        channel, platform = Channel(url), Subdir(subdir)
        names = await gateway.names([channel], [platform])
        found = await gateway.query([channel], [platform], [each.normalized for each in names], recursive=False)
        return [record for records in found for record in records]

    records = asyncio.run(download())
    if not records:
        return []
    files: dict[str, dict[str, Any]] = {}
    for record in records:
        fields = json.loads(record.to_json())
        files[record.file_name] = {key: value for key, value in fields.items() if key not in ("fn", "url", "channel")}
    document: dict[str, Any] = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": {}, "repodata_version": 1}
    for name, fields in sorted(files.items()):
        document["packages.conda" if name.endswith(".conda") else "packages"][name] = fields
    digest = hashlib.sha256(f"{url.rstrip('/')}/{subdir}".encode()).hexdigest()[:16]
    file = cache / "from-shards" / f"{digest}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(document))
    return [SparseRepoData(Channel(url), subdir, file)]


def _cache(folder: Path, stand_ins: Mapping[str, Sequence[str]]) -> Path:
    """Return the folder that caches live records: one for each mirror, since a mirror's records may differ."""
    mirrors = sorted(url.rstrip("/") for urls in stand_ins.values() for url in urls)
    if not mirrors:
        return folder
    return folder.with_name(f"repodata-{hashlib.sha256(' '.join(mirrors).encode()).hexdigest()[:16]}")


def _retried(download: Callable[[], Result]) -> Result:
    """Call `download`, and retry after a pause if the server limits requests (429) or is overloaded (503).

    A Retry-After of the server is honoured up to `core.http.LONGEST_WAIT_S`.
    """
    for pause in PAUSES_S:
        try:
            return download()
        except Exception as error:
            if not re.search(r"\b(429|503)\b", str(error)):
                raise
            url = re.search(r"https?://[^\s)]+", str(error))
            sleep(max(pause, retry_after(url[0]) if url else 0.0))
    return download()


def _unreachable(channel: str, error: Exception) -> ChannelUnreachableError:
    return ChannelUnreachableError(
        f"The channel {channel} cannot be read.",
        where=str(error).splitlines()[0],
        fix="check the network (or proxy); MIRROR=URL names a mirror, SNAPSHOT=DIR a folder of repodata",
    )


def _is_absent(error: Exception) -> bool:
    """Return whether the channel answered that it has no such subdir."""
    first = str(error).splitlines()[0].lower()
    return "not found" in first or "404" in first or "could not find subdir" in first

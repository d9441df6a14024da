"""Whether packages can be downloaded, without downloading them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from torchlocks.core.http import make_client as make_client
from torchlocks.core.package_cache import cache_folder
from torchlocks.core.urls import file_path
from torchlocks.core.urls import mask as mask
from torchlocks.install.cache import PackageStore
from torchlocks.install.transfer import classify
from torchlocks.lockfile.models import Lock, LockedPackage

if TYPE_CHECKING:
    from rattler import Client
from torchlocks.install.fetch_options import FetchOptions, packages_for
from torchlocks.install.fetch_run import candidates


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether all packages of a lock can be had; `missing` are the file names that are not in the cache."""

    ok: bool
    reason: str
    missing: tuple[str, ...] = ()


def packages_available(
    lock: Lock, platform: str, options: FetchOptions | None = None, *, timeout_s: float = 3
) -> Availability:
    """Return whether a lock's packages are available, from the cache or a channel.

    A quick answer: the cache is asked what it has, not whether all of it is sound, and there is one request a channel,
    without retries, for at most `timeout_s` seconds. Raises LockfileError when the lock has no
    such platform.
    """
    options = options or FetchOptions()
    store = PackageStore(cache_folder(options.cache))
    missing = [each for each in packages_for(lock, platform) if not store.has(each)]
    names = tuple(each.file_name for each in missing)
    if not missing:
        return Availability(ok=True, reason="all packages are in the package cache")
    if options.offline:
        return Availability(
            ok=False, reason=f"offline, and {len(missing)} packages are not in the cache", missing=names
        )
    one_a_channel = {each.channel: each for each in reversed(missing)}

    async def probe() -> list[str | None]:
        client = make_client()
        return await asyncio.gather(*(_first_that_answers(client, each, options) for each in one_a_channel.values()))

    try:
        reasons = asyncio.run(asyncio.wait_for(probe(), timeout_s))
    except asyncio.TimeoutError:
        channels = ", ".join(mask(each) for each in one_a_channel)
        return Availability(ok=False, reason=f"no answer within {timeout_s:g} s from {channels}", missing=names)
    for channel, reason in zip(one_a_channel, reasons, strict=True):
        if reason is not None:
            return Availability(ok=False, reason=f"{mask(channel)}: {reason}", missing=names)
    return Availability(
        ok=True, reason=f"{len(missing)} packages are to be fetched; their channels answer", missing=names
    )


def reachable(url: str, timeout_s: float = 3) -> str | None:
    """Why the file at `url` cannot be had, in a few words; None when it can. One request, cut off early."""
    try:
        return asyncio.run(asyncio.wait_for(_probe(make_client(), url), timeout_s))
    except asyncio.TimeoutError:
        return f"no answer within {timeout_s:g} s"


async def _first_that_answers(client: Client, package: LockedPackage, options: FetchOptions) -> str | None:
    *stand_ins, own = candidates(package.url, options.mirrors)
    mirrored = ""
    for url in stand_ins:
        reason = await _probe(client, url)
        if reason is None:
            return None
        mirrored += f"; nor from its mirror, {mask(url)}: {reason}"
    reason = await _probe(client, own)
    return reason and reason + mirrored


class _EnoughError(Exception):
    pass


class _Probe:
    answered = False

    def write(self, chunk: bytes) -> int:
        self.answered = True
        raise _EnoughError


async def _probe(client: Client, url: str) -> str | None:
    from rattler.package_streaming import download_to_writer

    if urlsplit(url).scheme == "file":
        return None if file_path(url).is_file() else "no such file"
    probe = _Probe()
    try:
        await download_to_writer(client, url, probe)
    except (RuntimeError, OSError, _EnoughError) as error:
        return None if probe.answered else classify(error, 0).why
    return None

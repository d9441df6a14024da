"""The HTTP client: py-rattler's, with the credentials, proxies and certificates of the user's other tools."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rattler import Client


def trust_certificates() -> None:
    """Set SSL_CERT_FILE, if unset, to the certificates that the user's other tools trust.

    py-rattler takes certificates from the process's environment only.
    """
    if "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ:
        return
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"):
        if Path(os.environ.get(variable, "")).is_file():
            os.environ["SSL_CERT_FILE"] = os.environ[variable]
            return


LONGEST_WAIT_S = 60.0
"""The longest Retry-After of a server that is honoured, in seconds."""


def retry_after(url: str) -> float:
    """Return how many seconds the server asks to wait before another request, at most LONGEST_WAIT_S.

    py-rattler does not pass headers on, so the server is asked once more, for the headers alone. 0 if there is none.
    """
    import email.utils
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    if not url.startswith(("https://", "http://")) or "@" in url:
        return 0.0
    try:
        with urlopen(Request(url, method="HEAD"), timeout=10) as answer:
            header = answer.headers.get("Retry-After")
    except HTTPError as error:
        header = error.headers.get("Retry-After")
    except (OSError, ValueError):
        return 0.0
    if not header:
        return 0.0
    try:
        wait = (
            float(header) if header.isdigit() else email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        )
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(wait, 0.0), LONGEST_WAIT_S)


async def download_small(url: str, limit: int, *, stall_s: float = 30, total_s: float = 300) -> bytes:
    """Return the bytes of a small file, such as a lock.

    Raises OSError where there are more than `limit`, nothing comes for `stall_s` seconds, or it takes longer than
    `total_s`; and what py-rattler raises.
    """
    import asyncio

    from rattler.package_streaming import download_to_writer

    sink = _Limited(limit)
    ends = time.monotonic() + total_s
    transfer = asyncio.ensure_future(download_to_writer(make_client(), url, sink))
    try:
        while not (await asyncio.wait({transfer}, timeout=0.2))[0]:
            if time.monotonic() > min(sink.last + stall_s, ends):
                raise OSError(f"the server is too slow (nothing for {stall_s:g} s, or more than {total_s:g} s in all)")
        transfer.result()
    except Exception as error:
        if len(sink.data) > limit:
            raise OSError(f"the file is larger than {limit >> 20} MiB") from error
        raise
    finally:
        transfer.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await transfer
    return bytes(sink.data)


class _Limited:
    """A writer for py-rattler that refuses to become larger than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self.last = time.monotonic()
        self._limit = limit

    def write(self, chunk: bytes) -> int:
        self.last = time.monotonic()
        self.data += chunk
        if len(self.data) > self._limit:
            raise OSError("too large")
        return len(chunk)


def make_client(resume: dict[tuple[str, str], int] | None = None) -> Client:
    """Return py-rattler's client with its credential stores and protocols, without its retries and time-out.

    It honours HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, RATTLER_AUTH_FILE, and SSL_CERT_FILE; if the last is unset,
    the variables that other Python tools read instead. `resume` maps (host, path) to the offset in bytes at which a
    download starts.
    """
    from rattler.networking import Client
    from rattler.networking.middleware import (
        AddHeadersMiddleware,
        AuthenticationMiddleware,
        GCSMiddleware,
        OciMiddleware,
        S3Middleware,
    )

    trust_certificates()

    def range_of(host: str, path: str) -> dict[str, str] | None:
        start = (resume or {}).get((host, path), 0)
        return {"Range": f"bytes={start}-"} if start else None

    ask = [] if resume is None else [AddHeadersMiddleware(range_of)]
    return Client([*ask, AuthenticationMiddleware(), OciMiddleware(), GCSMiddleware(), S3Middleware()])


def unreachable_client() -> Client:
    """Return a client of py-rattler that reaches no server, for work that needs nothing from a network.

    Its requests fail. It reads no certificates (some 300 files on Debian), which takes longer than all else that a
    client needs.
    """
    from rattler import Config
    from rattler.networking import Client

    # Nobody listens on port 0. Without the proxy, requests of a client that verifies nothing would be sent.
    proxy = "http://127.0.0.1:0"
    return Client.from_config(
        Config.from_toml(f'tls-no-verify = true\nproxy-config = {{ https = "{proxy}", http = "{proxy}" }}'),
        max_retries=0,
    )

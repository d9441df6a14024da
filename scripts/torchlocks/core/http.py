"""The HTTP client: py-rattler's, with the credentials, proxies and certificates of the user's other tools."""

from __future__ import annotations

import os
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

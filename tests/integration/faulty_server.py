"""A real HTTP server on the loopback interface that serves a folder, and misbehaves as told."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

Fault = Literal[
    "404",
    "403",
    "429",
    "500",
    "503",
    "reset",
    "truncate",
    "stall",
    "silent",
    "slow",
    "wrong",
    "longer",
    "empty",
    "endless",
    "drip",
    "later",
    "416",
]


@dataclass
class FaultyServer:
    """What the server does: `faults` maps a part of a path to a fault and how many requests it hits (-1: all).
    Without `ranges` it sends whole files to who asks for a part."""

    root: Path
    url: str = ""
    ranges: bool = True
    retry_after: str = ""
    faults: dict[str, tuple[Fault, int]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def fault_for(self, path: str) -> Fault | None:
        with self.guard:
            self.requests[path.rsplit("/", 1)[-1]] += 1
            for part, (fault, left) in self.faults.items():
                if part in path and left != 0:
                    self.faults[part] = (fault, left - 1 if left > 0 else left)
                    return fault
        return None


def _handler(server: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

        def do_HEAD(self) -> None:
            self.send_response(429 if server.retry_after else 200)
            if server.retry_after:
                self.send_header("Retry-After", server.retry_after)
            self.end_headers()

        def do_GET(self) -> None:
            server.headers.append(dict(self.headers))
            try:
                self._answer(server.fault_for(self.path))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _answer(self, fault: Fault | None) -> None:
            # A client that takes this server for its proxy sends whole URLs.
            file = server.root / unquote(urlsplit(self.path).path).lstrip("/")
            if fault == "416" and "range" not in {name.lower() for name in self.headers}:
                fault = None
            if fault == "later":
                self.send_response(429)
                self.send_header("Retry-After", server.retry_after)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault in ("endless", "drip"):
                self.send_response(200)
                self.end_headers()
                while not server.stop.wait(0.3 if fault == "drip" else 0):
                    self.wfile.write(b"x" if fault == "drip" else b"x" * (1 << 20))
                    self.wfile.flush()
                return
            if fault is not None and fault.isdigit():
                self.send_error(int(fault))
                return
            if fault == "reset":
                # Linger 0 makes the close a reset; shutdown first, since the handler still holds the socket.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.rfile.close()
                self.connection.close()
                self.close_connection = True
                return
            if fault == "silent":
                server.stop.wait(30)
                return
            if not file.is_file():
                self.send_error(404)
                return
            content = file.read_bytes()
            if fault == "wrong":
                content = bytes([content[0] ^ 1]) + content[1:]
            if fault == "longer":
                content += b"more"
            if fault == "empty":
                content = b""
            part = self.headers.get("Range", "")
            if server.ranges and part:
                content = content[int(part.removeprefix("bytes=").removesuffix("-")) :]
            self.send_response(206 if server.ranges and part else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if fault == "truncate":
                self.wfile.write(content[: len(content) // 2])
            elif fault == "stall":
                self.wfile.write(content[:10])
                self.wfile.flush()
                server.stop.wait(30)
            elif fault == "slow":
                for start in range(0, len(content), max(1, len(content) // 20)):
                    self.wfile.write(content[start : start + max(1, len(content) // 20)])
                    self.wfile.flush()
                    time.sleep(0.1)
            else:
                self.wfile.write(content)

    return Handler


@contextmanager
def faulty_server(root: Path, tls: ssl.SSLContext | None = None) -> Iterator[FaultyServer]:
    """Serve `root` at a free port of 127.0.0.1, with `tls` over HTTPS, until the block ends."""
    told = FaultyServer(root)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(told)) as http:
        http.daemon_threads = True
        http.block_on_close = False
        if tls is not None:
            http.socket = tls.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        told.url = f"{'https' if tls else 'http'}://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield told
        finally:
            told.stop.set()
            http.shutdown()
            thread.join()

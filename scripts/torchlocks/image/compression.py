"""Compress layers on all processors, with the same bytes for any number of them.

gzip is what every client reads. Zstandard is faster and smaller; older clients (Docker before 23, umoci 0.4) do not
read it.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Literal, Protocol

import zstandard

Compression = Literal["gzip", "zstd", "none"]

_BLOCK = 4 << 20
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3
# Magic, deflate, no flags, no time, no extra flags, unknown system: nothing that differs between machines.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_WINDOW = 1 << 27
"""Limit of Zstandard's window in bytes: the default of `zstd --long`."""


class Sink(Protocol):
    """Takes the bytes of a layer."""

    def write(self, data: bytes, /) -> None: ...


@contextmanager
def compressed(kind: Compression, write: Callable[[bytes], object]) -> Iterator[Sink]:
    """Yield a sink that passes compressed bytes to `write`; the end is written unless there is an error."""
    sink: _Plain | _Zstd | _Gzip
    if kind == "none":
        sink = _Plain(write)
    elif kind == "zstd":
        sink = _Zstd(write)
    else:
        sink = _Gzip(write)
    try:
        yield sink
        sink.finish()
    finally:
        sink.close()


class _Plain:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: bytes) -> None:
        self._write(data)

    def finish(self) -> None: ...

    def close(self) -> None: ...


class _Zstd:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        # Any number of threads but 0 gives the same bytes: 0 is another mode.
        threads = os.cpu_count() or 1
        self._packer = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, threads=threads, write_checksum=True).compressobj()

    def write(self, data: bytes) -> None:
        if packed := self._packer.compress(data):
            self._write(packed)

    def finish(self) -> None:
        self._write(self._packer.flush())

    def close(self) -> None: ...


class _Gzip:
    """One gzip member of separately compressed blocks, as pigz does."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)
        self._waiting: deque[Future[bytes]] = deque()
        self._most = 2 * (os.cpu_count() or 1)
        self._block = bytearray()
        self._crc = 0
        self._size = 0
        write(_GZIP_HEADER)

    def write(self, data: bytes) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._block += data
        while len(self._block) >= _BLOCK:
            self._submit(bytes(self._block[:_BLOCK]), last=False)
            del self._block[:_BLOCK]

    def _submit(self, block: bytes, *, last: bool) -> None:
        self._waiting.append(self._pool.submit(_deflate, block, last))
        while len(self._waiting) > (0 if last else self._most):
            self._write(self._waiting.popleft().result())

    def finish(self) -> None:
        self._submit(bytes(self._block), last=True)
        self._write(self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little"))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _deflate(block: bytes, last: bool) -> bytes:
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(block) + packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def guess(start: bytes) -> Compression | None:
    """Return the compression of a file by its first bytes; None for one that is not read (bzip2, xz)."""
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    return None if start.startswith((b"BZh", b"\xfd7zXZ")) else "none"


def decompressed(file: IO[bytes], kind: str) -> Iterator[bytes]:
    """Yield the content of a compressed file in blocks of some megabytes at most.

    Raises ValueError for damaged or incomplete data, OSError.
    """
    if kind == "none":
        while block := file.read(_BLOCK >> 2):
            yield block
    elif kind == "zstd":
        try:
            yield from _unzstd(file)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None
    else:
        yield from _gunzip(file)


def _unzstd(file: IO[bytes]) -> Iterator[bytes]:
    # The library's reader does not report a file that ends early. A block of four bytes can stand for 128 KiB, so that
    # little is handed over at once.
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    unpacker = decompressor.decompressobj()
    whole = True
    while data := file.read(2048):
        while data:
            if unpacker.eof:
                unpacker = decompressor.decompressobj()
            if block := unpacker.decompress(data):
                yield block
            whole = unpacker.eof
            data = unpacker.unused_data if whole else b""
    if not whole:
        raise ValueError("it ends early")


def _gunzip(file: IO[bytes]) -> Iterator[bytes]:
    # The module gzip has no limit on what one read may expand to.
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    rest = file.read(_BLOCK >> 4)
    try:
        while rest:
            block = unpacker.decompress(rest, _BLOCK >> 2)
            if block:
                yield block
            rest = unpacker.unconsumed_tail
            if unpacker.eof:
                # Another member may follow; zeros are padding.
                rest = (unpacker.unused_data or file.read(_BLOCK >> 4)).lstrip(b"\0")
                if not rest and not (rest := file.read(_BLOCK >> 4).lstrip(b"\0")):
                    return
                unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
            elif not rest:
                rest = file.read(_BLOCK >> 4)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    raise ValueError("it ends early")

"""Readers of Zstandard: the first that is available on this machine is used."""

from __future__ import annotations

import io
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

from .files import BLOCK
from .model import Bundle, BundleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

    Opener = Callable[[BinaryIO], BinaryIO]


def zstd_of_python() -> Opener | None:
    """Return the reader of Python 3.14 and newer."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return lambda raw: zstd.ZstdFile(raw)  # type: ignore[no-any-return, unused-ignore]


def zstd_of_module() -> Opener | None:
    """Return the reader of `backports.zstd` or `zstandard`, if one of them is installed."""
    try:
        from backports import zstd  # type: ignore[import-not-found, unused-ignore]

        return lambda raw: zstd.ZstdFile(raw)  # type: ignore[return-value, no-any-return, unused-ignore]
    except ImportError:
        pass
    try:
        import zstandard  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return lambda raw: zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)  # type: ignore[no-any-return, unused-ignore]


def zstd_of_system() -> Opener | None:
    """Return a reader that uses the system's libzstd, through its stable streaming interface (zstd.h)."""
    try:
        import ctypes
        from ctypes.util import find_library
    except ImportError:
        return None
    found = []
    for name in ("libzstd.so.1", "libzstd.1.dylib", "libzstd.dll", find_library("zstd")):
        try:
            found += [ctypes.CDLL(name)] if name else []
        except OSError:
            continue
    if not found:
        return None
    library = found[0]

    class Buffer(ctypes.Structure):
        _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t))

    for function, result, arguments in (
        ("ZSTD_createDStream", ctypes.c_void_p, []),
        ("ZSTD_freeDStream", ctypes.c_size_t, [ctypes.c_void_p]),
        (
            "ZSTD_decompressStream",
            ctypes.c_size_t,
            [ctypes.c_void_p, ctypes.POINTER(Buffer), ctypes.POINTER(Buffer)],
        ),
        ("ZSTD_isError", ctypes.c_uint, [ctypes.c_size_t]),
    ):
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments

    class Reader(io.RawIOBase):
        """The decompressed bytes of `raw`."""

        def __init__(self, raw: BinaryIO) -> None:
            super().__init__()
            self._raw = raw
            self._stream = library.ZSTD_createDStream()
            self._source = ctypes.create_string_buffer(0)
            self._input = Buffer(None, 0, 0)
            self._more = 0

        def readable(self) -> bool:
            return True

        def readinto(self, target: Any) -> int:
            view = memoryview(target).cast("B")
            # ctypes has no other way to get the address of a foreign buffer.
            space = (ctypes.c_char * len(view)).from_buffer(view)
            output = Buffer(ctypes.addressof(space), len(view), 0)
            while output.pos == 0:
                if self._input.pos == self._input.size:
                    block = self._raw.read(BLOCK)
                    if not block:
                        if self._more:
                            raise OSError("the Zstandard data ends too early")
                        return 0
                    self._source = ctypes.create_string_buffer(block, len(block))
                    self._input = Buffer(ctypes.addressof(self._source), len(block), 0)
                self._more = library.ZSTD_decompressStream(
                    self._stream, ctypes.byref(output), ctypes.byref(self._input)
                )
                if library.ZSTD_isError(self._more):
                    raise OSError("the Zstandard data is damaged")
            return int(output.pos)

        def close(self) -> None:
            if not self.closed:
                library.ZSTD_freeDStream(self._stream)
            super().close()

    return lambda raw: io.BufferedReader(Reader(raw), BLOCK)


def zstd_of_command() -> Opener | None:
    """Return a reader that runs the `zstd` command."""
    command = shutil.which("zstd")
    if command is None:
        return None

    class Reader(io.RawIOBase):
        """The decompressed bytes of `raw`, which a thread writes to the command."""

        def __init__(self, raw: BinaryIO) -> None:
            super().__init__()
            self._process = subprocess.Popen(
                [str(command), "-d", "-c", "-q"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._broken: Exception | None = None
            self._feeder = threading.Thread(target=self._feed, args=(raw,), daemon=True)
            self._feeder.start()

        def _feed(self, raw: BinaryIO) -> None:
            try:
                with self._process.stdin as pipe:  # type: ignore[union-attr]
                    shutil.copyfileobj(raw, pipe, BLOCK)
            except Exception as error:  # Raised in `readinto`, after the command's own failure.
                self._broken = error

        def readable(self) -> bool:
            return True

        def readinto(self, target: Any) -> int:
            got = self._process.stdout.readinto(target)  # type: ignore[union-attr]
            if got == 0:
                self._feeder.join()
                if self._process.wait() != 0:
                    raise OSError(f"zstd failed (exit code {self._process.returncode})")
                if self._broken is not None:
                    raise self._broken
            return int(got)

        def close(self) -> None:
            if not self.closed:
                self._process.kill()
                self._process.wait()
                self._process.stdout.close()  # type: ignore[union-attr]
                self._feeder.join()
            super().close()

    return lambda raw: io.BufferedReader(Reader(raw), BLOCK)


ZSTD = (zstd_of_python, zstd_of_module, zstd_of_system, zstd_of_command)


def require_zstd(bundle: Bundle) -> Opener | None:
    """Return a reader; None if no package needs it. Raises BundleError if there is none."""
    if not any(each.file.endswith(".conda") for each in bundle.packages):
        return None
    for way in ZSTD:
        opener = way()
        if opener is not None:
            return opener
    raise BundleError(
        "The packages are compressed with Zstandard, and nothing on this machine can read it.",
        "run install.py with Python 3.14 or newer, install zstd (its library, command or Python module), use a conda "
        "client as README.txt describes, or make a portable bundle (PORTABLE=1).",
    )

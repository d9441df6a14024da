"""Extracting packages in processes of their own.

py-rattler's `extract` holds the interpreter's lock until it is done: in this process, one big package would stop all
downloads, the progress bar and Ctrl-C for seconds, and only one core would work. The other end is this module, run
with `-m`: it reads lines of JSON, `[archive, folder]`, and prints for each `{"sha256": …, "md5": …}` or
`{"error": …}`. Its input ends when the parent dies, however that happens, and then it ends too.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

# Below this many bytes starting a process (0.2 s) takes longer than extracting here.
SMALL = 4_000_000


class UnpackError(Exception):
    """An archive could not be extracted; the text is py-rattler's, unless the process that did it `crashed`."""

    def __init__(self, why: str, *, crashed: bool = False) -> None:
        super().__init__(why)
        self.crashed = crashed


class Unpacker:
    """Up to one process a core; use as an asynchronous context manager, which ends them."""

    def __init__(self, processes: int | None = None) -> None:
        self._free = asyncio.Semaphore(processes or min(os.cpu_count() or 1, 4))
        self._idle: list[asyncio.subprocess.Process] = []
        self._all: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Unpacker:
        return self

    async def __aexit__(self, *raised: object) -> None:
        for process in self._all:
            with suppress(ProcessLookupError):
                process.kill()
        for process in self._all:
            await process.wait()

    async def extract(self, archive: Path, folder: Path) -> tuple[str, str]:
        """Extract `archive` into the new folder `folder`; its (sha256, md5). Raises UnpackError."""
        if archive.stat().st_size < SMALL:
            return _answer(await asyncio.to_thread(_extract, str(archive), str(folder)))
        async with self._free:
            process = self._idle.pop() if self._idle else await self._start()
            if process.stdin is None or process.stdout is None:
                raise UnpackError("the process that extracts has no pipes", crashed=True)
            try:
                process.stdin.write(json.dumps([str(archive), str(folder)]).encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
            except ConnectionError:
                line = b""
            if not line:
                code = await process.wait()
                raise UnpackError(f"the process that extracts has ended (exit code {code})", crashed=True)
            self._idle.append(process)
        return _answer(json.loads(line))

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "torchlocks.install.unpack",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C on a terminal goes to the whole group; the parent decides what it means.
            start_new_session=True,
        )
        self._all.append(process)
        return process


def _answer(message: dict[str, str]) -> tuple[str, str]:
    if "error" in message:
        raise UnpackError(message["error"])
    return message["sha256"], message["md5"]


def _extract(archive: str, folder: str) -> dict[str, str]:
    from rattler.package_streaming import extract

    try:
        sha256, md5 = extract(Path(archive), Path(folder))
    except Exception as error:
        return {"error": str(error)}
    return {"sha256": sha256.hex(), "md5": md5.hex()}


def main() -> None:
    """Extract what standard input asks for, until it ends."""
    for line in sys.stdin:
        archive, folder = json.loads(line)
        answer = json.dumps(_extract(archive, folder)).encode() + b"\n"
        try:
            os.write(sys.stdout.fileno(), answer)
        except BrokenPipeError:
            # The parent was killed meanwhile; nobody is left to hear of it.
            return


if __name__ == "__main__":
    main()

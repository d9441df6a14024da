"""`torchlocks` for tests, as a process of its own that need not import its modules anew.

Half of what a short command takes is Python's imports. So the first call of a test process starts a server that has
imported all of torchlocks, and each call is a fork of it: own arguments, environment, working directory, output and
exit code, as a program has them. Starts themselves are tested in `tests/unit/cli/test_startup.py` and by the wheel.
"""

from __future__ import annotations

import gc
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO

TORCHLOCKS = Path(sys.executable).parent / "torchlocks"


def run_torchlocks(
    arguments: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """Run `torchlocks` with `arguments` and return its exit code and output.

    Arguments:
        arguments: without the name of the program
        cwd: the working directory
        env: all variables; default: those of this process
        timeout: seconds after which it is killed, and `subprocess.TimeoutExpired` raised
    """
    command = [str(TORCHLOCKS), *arguments]
    variables = dict(os.environ if env is None else env)
    own_start = any(
        variables.get(name) != os.environ.get(name) for name in {*variables, *os.environ} if _at_start(name)
    )
    if own_start or sys.platform != "linux":
        return _done(subprocess.run(command, cwd=cwd, env=variables, timeout=timeout, capture_output=True, text=True))
    request = json.dumps([command, str(cwd or Path.cwd()), variables]).encode()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors, Path(os.devnull).open() as nothing:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                files = [theirs.fileno(), nothing.fileno(), output.fileno(), errors.fileno()]
                socket.send_fds(_server(), [request], files)
            ours.settimeout(timeout)
            answers = ours.makefile()
            process = int(answers.readline())
            try:
                code = int(answers.readline())
            except TimeoutError:
                os.kill(process, signal.SIGKILL)
                raise subprocess.TimeoutExpired(command, timeout) from None
        return _done(subprocess.CompletedProcess(command, code, _text(output), _text(errors)))


def _done(run: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert "Traceback" not in run.stderr, run.stderr
    return run


def _at_start(name: str) -> bool:
    """Whether a variable is read before the first line of Python."""
    return name.startswith(("PYTHON", "LD_", "LC_", "LANG"))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n")


@cache
def _server() -> socket.socket:
    """Start the server; it ends when this process does, which closes its end of the socket."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    return ours


def _serve(control: socket.socket) -> None:
    import torchlocks

    for name in ("conda_lock.conda_lock", "rattler"):
        import_module(name)
    for module in pkgutil.walk_packages(torchlocks.__path__, "torchlocks."):
        # A program of its own, whose modules have other names than here: PyPI's `installer` is another one.
        if module.name.startswith("torchlocks.bundle.install"):
            continue
        # What an optional library is needed for, the command imports itself or fails as it does for a user.
        with suppress(ImportError):
            import_module(module.name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with threads must not be forked"
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, files, _, _ = socket.recv_fds(control, 1 << 20, 4)
        if not request:
            return
        if os.fork() == 0:
            control.close()
            _start(request, *files)
        for file in files:
            os.close(file)


def _start(request: bytes, answers: int, *streams: int) -> None:
    """Run the command in a child, and write its number and its exit code to `answers`."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child:
        os.write(answers, f"{child}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(answers, f"{code}\n".encode())
        os._exit(0)
    command, folder, variables = json.loads(request)
    os.close(answers)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.argv[:] = command
    os.environ.clear()
    os.environ.update(variables)
    code = 1
    try:
        os.chdir(folder)
        from torchlocks.cli.main import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        _serve(connection)

"""Processes on this machine and on others that compute together: how torchrun is started, and what came of it.

Several nodes take part when the same suite is started on each of them at about the same time, with

- `TORCH_VERIFY_RDZV`: host:port, an address of one of the nodes that all of them reach;
- `TORCH_VERIFY_NODES`: how many nodes there are;
- `TORCH_VERIFY_ADDR` (optional): the address of this node, where its host name does not lead to it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchsuite import ranks

#: The loopback interface's name; gloo would look the host's own name up, which fails on many machines.
LOOPBACK = {"linux": "lo", "darwin": "lo0"}

#: How long a node waits for the others.
JOIN_SECONDS = 180


@dataclass(frozen=True)
class Nodes:
    """Where the nodes meet, how many they are, and the address of this one (None: its host name's)."""

    meeting_point: str
    count: int
    address: str | None


ALONE = Nodes(meeting_point="127.0.0.1:0", count=1, address="127.0.0.1")


def obstacle() -> str | None:
    """Why there is nothing to do with other nodes; None when one is named, rightly or not."""
    if any(name in os.environ for name in ("TORCH_VERIFY_RDZV", "TORCH_VERIFY_NODES")):
        return None
    return "not run: no other node is named (TORCH_VERIFY_RDZV)"


def named(variables: Mapping[str, str]) -> Nodes:
    """The nodes that the variables name. Raises ValueError, with the variable, when they make no sense."""
    meeting_point, count = variables.get("TORCH_VERIFY_RDZV", ""), variables.get("TORCH_VERIFY_NODES", "")
    if not re.fullmatch(r"\S+:\d+", meeting_point):
        raise ValueError(f"TORCH_VERIFY_RDZV is {meeting_point!r}: it names where the nodes meet, as host:port")
    if not count.isdecimal() or int(count) < 2:
        raise ValueError(f"TORCH_VERIFY_NODES is {count!r}: it must be the number of nodes, two or more")
    return Nodes(meeting_point, int(count), variables.get("TORCH_VERIFY_ADDR"))


@dataclass(frozen=True)
class Together:
    """What processes that computed together left in `folder`, and why torchrun failed, or None."""

    folder: Path
    processes: int
    programs: tuple[str, ...]
    error: str | None

    def verified(self, program: str) -> list[str]:
        """What a program verified, by rank and name.

        Raises AssertionError with what went wrong, and the processes' own words. A later program that fails is none of
        an earlier one's matter.
        """
        files = sorted(self.folder.glob(f"{program}-*.json"))
        if len(files) != self.processes or program == self.programs[-1]:
            assert self.error is None, self.error
        verified = []
        for file in files:
            rank, seen = file.stem.replace(f"{program}-", "rank-"), json.loads(file.read_text(encoding="utf-8"))
            wrong = ", ".join(name for name, right in seen["results"].items() if not right)
            assert not wrong, f"{rank} of {seen['world']} over {seen['backend']} got wrong results from {wrong}"
            verified += [f"{rank}: {name}" for name in seen["results"]]
        assert len(files) == self.processes, f"{len(files)} of {self.processes} processes came to their end"
        return verified


def run_together(
    backend: str,
    processes: int,
    folder: Path,
    nodes: Nodes = ALONE,
    timeout: float = 150.0,
    programs: Sequence[str] = ("collectives",),
) -> Together:
    """Run the programs (see `ranks.py`) one after the other in so many processes of this node."""
    folder.mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-I", "-m", "torch.distributed.run"),
        *(f"--nnodes={nodes.count}", f"--nproc-per-node={processes}", "--max-restarts=0", "--rdzv-backend=c10d"),
        *(f"--rdzv-endpoint={nodes.meeting_point}", "--rdzv-id=torch-verify"),
        *(f"--rdzv-conf=join_timeout={JOIN_SECONDS}", *((f"--local-addr={nodes.address}",) if nodes.address else ())),
        *("--no-python", sys.executable, "-I", os.fspath(ranks.__file__), backend, os.fspath(folder), *programs),
    ]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    if nodes is ALONE and sys.platform in LOOPBACK:
        variables["GLOO_SOCKET_IFNAME"] = LOOPBACK[sys.platform]
        variables["NCCL_SOCKET_IFNAME"] = LOOPBACK[sys.platform]
    error = None
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            error = f"{_first_error(done.stderr)}\n{done.stderr}"
    except subprocess.TimeoutExpired as late:
        output = late.stderr.decode(errors="replace") if isinstance(late.stderr, bytes) else late.stderr or ""
        error = f"the processes did not finish within {timeout:.0f} s:\n{output}"
    return Together(folder=folder, processes=processes, programs=tuple(programs), error=error)


def _first_error(stderr: str) -> str:
    """The line of torchrun's output, among its own tracebacks, that names a cause."""
    errors = [line for line in stderr.splitlines() if re.search(r"\b\w*(Error|Exception): ", line)]
    return errors[0].strip() if errors else "torchrun failed"

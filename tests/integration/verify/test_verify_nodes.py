"""The suite on several nodes at once: here, two that meet on this machine's loopback interface."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SUITE = Path(__file__).parents[2] / "torch"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the path of the interpreter is POSIX's here")


def start(environment: Path, **variables: str) -> subprocess.Popen[str]:
    """One node: torch-verify in the CPU environment, from this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TORCH_VERIFY")}
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    known = {"PYTHONPATH": str(SUITE), "GLOO_SOCKET_IFNAME": loopback, "TORCH_VERIFY_ADDR": "127.0.0.1"}
    command = [str(environment / "bin" / "python"), "-B", "-m", "torchsuite", "--expect", "cpu", "--json"]
    return subprocess.Popen(
        [*command, "--tier", "multi-node"], env={**kept, **known, **variables}, stdout=subprocess.PIPE, text=True
    )


def check_of(node: subprocess.Popen[str], timeout: float = 300) -> dict[str, Any]:
    out, _ = node.communicate(timeout=timeout)
    (check,) = (check for check in json.loads(out)["checks"] if check["tier"] == "multi-node")
    result: dict[str, Any] = check
    return result


@pytest.mark.skipif(not os.environ.get("TORCHLOCKS_SLOW"), reason="starts torch eight times: TORCHLOCKS_SLOW=1")
def test_two_nodes_compute_together(environment: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    meeting = {"TORCH_VERIFY_RDZV": f"127.0.0.1:{port}", "TORCH_VERIFY_NODES": "2"}
    nodes = [start(environment, **meeting) for _ in range(2)]
    checks = [check_of(node) for node in nodes]
    assert [check["outcome"] for check in checks] == ["passed", "passed"], [check["error"] for check in checks]
    verified = sorted(name for check in checks for name in check["values"]["verified"] if "training" in name)
    assert verified == ["rank-0: training", "rank-1: training"]


def test_no_other_node_is_a_reason_and_not_a_failure(environment: Path) -> None:
    check = check_of(start(environment))
    assert (check["outcome"], check["why"]) == ("skipped", "not run: no other node is named (TORCH_VERIFY_RDZV)")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"TORCH_VERIFY_NODES": "2"}, "TORCH_VERIFY_RDZV is ''"),
        ({"TORCH_VERIFY_RDZV": "head:29400", "TORCH_VERIFY_NODES": "one"}, "TORCH_VERIFY_NODES is 'one'"),
        ({"TORCH_VERIFY_RDZV": "head", "TORCH_VERIFY_NODES": "2"}, "TORCH_VERIFY_RDZV is 'head'"),
    ],
)
def test_nodes_that_are_named_badly_are_reported(variables: dict[str, str], words: str) -> None:
    sys.path.insert(0, str(SUITE))
    try:
        from torchsuite import nodes
    finally:
        sys.path.remove(str(SUITE))
    with pytest.raises(ValueError, match="TORCH_VERIFY") as error:
        nodes.named(variables)
    assert words in str(error.value)

"""Machines that are not here: what they answered, replayed one level below the code that asks.

`hosts/NAME.json` holds a machine's `files` under `/`, its NVML answers (`{"error": CODE}` for a refusal), and what
rattler detects there (`virtual`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from torchlocks.host.detect import detect_host
from torchlocks.host.nvidia import NvidiaFacts, nvidia_facts
from torchlocks.host.record import Host

HOSTS = Path(__file__).parent / "hosts"
NAMES = sorted(path.stem for path in HOSTS.glob("*.json"))


class Replay:
    """NVML in the shape of `pynvml`, from recorded answers; its errors are pynvml's own."""

    NVMLError: type[Exception] = pynvml.NVMLError

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self._answers = answers

    def nvmlInit(self) -> None:
        _answer(self._answers.get("init"))

    def nvmlShutdown(self) -> None:
        _answer(self._answers.get("shutdown"))

    def nvmlSystemGetDriverVersion(self) -> str:
        return str(_answer(self._answers["driver"]))

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return int(_answer(self._answers["cuda"]))

    def nvmlDeviceGetCount(self) -> int:
        return len(_answer(self._answers["gpus"]))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return _answer(self._answers["gpus"][index])

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return str(_answer(handle["name"]))

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any) -> tuple[int, int]:
        major, minor = _answer(handle["capability"])
        return major, minor

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return SimpleNamespace(total=_answer(handle["memory"]))

    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:
        return list(_answer(handle["mig"]))


def recording(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((HOSTS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def facts_of(name: str, root: Path) -> NvidiaFacts:
    """The driver and GPUs of a recorded machine, whose files are laid out under `root`."""
    recorded = recording(name)
    for path, text in recorded["files"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return nvidia_facts(root, Replay(recorded["nvml"]))


def host_of(name: str, root: Path, monkeypatch: pytest.MonkeyPatch, **environ: str) -> Host:
    """A recorded machine as the doctor sees it, with `environ` for variables."""
    facts, recorded = facts_of(name, root), recording(name)
    monkeypatch.setenv("CONDA_SUBDIR", recorded["platform"])
    return detect_host(root, nvidia=facts, virtual=recorded["virtual"], environ=environ)


def _answer(recorded: Any) -> Any:
    if isinstance(recorded, dict) and set(recorded) == {"error"}:
        raise pynvml.NVMLError(recorded["error"])
    return recorded

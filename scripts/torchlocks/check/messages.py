"""Environments to check and their reports as JSON: `torchlocks.dask` sends them to `perform` on the workers."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zstandard

from torchlocks.check.environment import Checked, CheckTask, Inputs, check_task
from torchlocks.check.lock import rule_reasons
from torchlocks.check.model import Finding, Skipped
from torchlocks.check.rules.files import Contents, read_contents
from torchlocks.core.reading import load_json
from torchlocks.dask.messages import KINDS, Kind, as_json, from_json
from torchlocks.export.signatures import SUFFIX
from torchlocks.matrix.cells import Parity
from torchlocks.matrix.target import Target

_Targets = tuple[Target, ...]


def pack(task: CheckTask) -> dict[str, Any]:
    """Return a task as JSON values, with what it reads; without, if a file of the folder cannot be read.

    Raises TemplateError for a template that cannot be rendered.
    """
    return {
        "env": task.env,
        "folder": str(task.folder),
        "root": str(task.root),
        "targets": as_json(_Targets, task.targets),
        "declared": as_json(Parity, task.declared),
        "inputs": _packed_inputs(task),
    }


def unpack(data: Mapping[str, Any]) -> CheckTask:
    """Return the task of `pack`. Raises ValueError, KeyError or TypeError for other values."""
    inputs = data["inputs"]
    return CheckTask(
        env=data["env"],
        folder=Path(data["folder"]),
        root=Path(data["root"]),
        targets=from_json(_Targets, data["targets"]),
        declared=from_json(Parity, data["declared"]),
        inputs=None
        if inputs is None
        else Inputs(
            rendered=tuple(inputs["rendered"]),
            contents=Contents(names=tuple(inputs["names"]), data=_unpacked(inputs["data"])),
        ),
    )


def perform(data: Mapping[str, Any], snapshot: Path | None) -> dict[str, Any]:
    """Check an environment on a worker; return the result as JSON values, None if this worker cannot check it."""
    task = unpack(data)
    if task.inputs is None:
        return {"checked": None}
    if any(name.endswith(SUFFIX) for name in task.inputs.contents.data) and shutil.which("ssh-keygen") is None:
        # The report must not depend on the worker: the machine that asks verifies signatures then.
        return {"checked": None}
    return {"checked": as_json(Checked, check_task(task))}


def register() -> None:
    """Register checks with the executor of a scheduler."""
    KINDS[check_task] = Kind(name="check", pack=pack, read=_read)


def _packed_inputs(task: CheckTask) -> dict[str, Any] | None:
    rendered = list(task.rendered())
    try:
        contents = read_contents(task.folder)
    except OSError:
        return None
    # Damaged files need not be text: with surrogates, all bytes round-trip.
    texts = {name: data.decode("utf-8", "surrogateescape") for name, data in contents.data.items()}
    packed = base64.b64encode(zstandard.compress(json.dumps(texts).encode()))
    return {"rendered": rendered, "names": list(contents.names), "data": packed.decode()}


def _unpacked(packed: str) -> dict[str, bytes]:
    texts = load_json(zstandard.decompress(base64.b64decode(packed)))
    return {name: text.encode("utf-8", "surrogateescape") for name, text in texts.items()}


def _read(answer: Mapping[str, Any], task: CheckTask) -> Checked | None:
    data = answer["checked"]
    if data is None:
        return None
    checked: Checked = from_json(Checked, data)
    # Nothing was converted, left out or made printable: it is what `perform` returns.
    if as_json(Checked, checked) != data:
        raise ValueError("it is not a report")
    report = checked.report
    if not set(checked.sides) <= {target.platform for target in task.targets}:
        raise ValueError("it has other platforms")
    placed: list[Finding | Skipped] = [*report.findings, *report.skipped]
    if any(finding.env != task.env for finding in report.findings) or any(
        each.path != task.shown and not each.path.startswith(f"{task.shown}/") for each in placed
    ):
        raise ValueError("it is about another environment")
    if unknown := {*report.rules, *(each.rule for each in placed)} - set(rule_reasons()):
        raise ValueError(f"it has rules that do not exist: {sorted(unknown)[:3]}")
    if report.bases_not_checked or report.environments or min(report.locks, report.packages) < 0:
        raise ValueError("it is not a report on locks of the matrix")
    return checked

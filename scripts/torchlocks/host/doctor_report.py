"""A diagnosis as people read it, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from torchlocks import __version__
from torchlocks.core.layout import as_typed_here
from torchlocks.host.compatibility import Fit
from torchlocks.host.doctor import Diagnosis, describe_driver, describe_gpus
from torchlocks.host.record import Host

if TYPE_CHECKING:
    from rich.console import RenderableType


def diagnosis_text(diagnosis: Diagnosis) -> RenderableType:
    """The machine in a few lines, a row an environment, and what to do: for rich, which wraps it to the width."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    machine = Table.grid(padding=(0, 2))
    machine.add_column(no_wrap=True)
    machine.add_column(overflow="fold")
    for name, value in _host_lines(diagnosis.host):
        machine.add_row(Text(name), Text(value))
    table = Table("environment", "torch", "vision", "audio", "", "why", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap = True
    table.columns[4].max_width = 16
    table.columns[5].overflow = "fold"
    for fit in diagnosis.fits:
        mark = "*" if fit.env == diagnosis.best else ""
        table.add_row(
            Text(fit.env + mark), *_versions(fit), Text(fit.headline, style=_STYLES[fit.state]), Text(why(fit))
        )
    to_do = Table.grid(padding=(0, 1))
    for sentence in diagnosis.advice:
        to_do.add_row(Text("-"), Text(as_typed_here(sentence), overflow="fold"))
    return Group(machine, Text(), table, Text(), to_do)


def _versions(fit: Fit) -> list[str]:
    """Return the versions of torch, torchvision and torchaudio; `no` where the environment does not have one."""
    there = dict(text.split() for text in fit.holds)
    return [there.get(name, "no") if there else "" for name in ("torch", "torchvision", "torchaudio")]


def why(fit: Fit) -> str:
    """The reasons of a judgement, in a line: those that decide it, without what would follow from other states."""
    decisive = fit.blocking if fit.state == "does-not-run" else fit.reasons
    return "; ".join(reason.text for reason in decisive)


def diagnosis_json(diagnosis: Diagnosis) -> str:
    """The diagnosis as JSON; its `host` is a host record, which `torchlocks doctor --host` reads."""
    return json.dumps(
        {
            "torchlocks": __version__,
            "host": diagnosis.host.model_dump(mode="json"),
            "virtual_packages": diagnosis.host.virtual_packages,
            "best": diagnosis.best,
            "environments": [{**asdict(fit), "headline": fit.headline} for fit in diagnosis.fits],
            "advice": [as_typed_here(sentence) for sentence in diagnosis.advice],
        },
        indent=2,
        ensure_ascii=False,
    )


_STYLES = {"runs": "green", "runs-with-remark": "green", "unknown": "yellow", "does-not-run": "red"}


def _host_lines(host: Host) -> list[tuple[str, str]]:
    kind = {"wsl": "WSL", "jetson": "Jetson", "native": None}[host.kind]
    libc = f"glibc {host.glibc}" if host.glibc else f"macOS {host.osx}" if host.osx else None
    lines = [
        ("machine", ", ".join(part for part in (host.platform, kind, host.system, libc, host.cpu_level) if part)),
        ("driver", describe_driver(host)),
        ("GPU", "; ".join(describe_gpus(host)) or "none"),
        ("conda sees", " ".join(f"{name}={version}" for name, version in host.virtual_packages.items()) or "nothing"),
    ]
    return lines + [("note", note) for note in host.notes]

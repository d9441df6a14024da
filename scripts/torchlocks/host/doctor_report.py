"""Format a diagnosis for people, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from string import ascii_lowercase
from typing import TYPE_CHECKING

from torchlocks import __version__
from torchlocks.core.layout import as_typed_here
from torchlocks.core.printing import aligned, printable
from torchlocks.host.doctor import Diagnosis, describe_driver, describe_gpus
from torchlocks.host.needs import Compatibility
from torchlocks.host.record import Host

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """The texts of a diagnosis: facts about the machine, the table of environments, evidence, and advice."""

    machine: list[tuple[str, str]]
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    proven: list[tuple[str, str]]
    to_do: list[str]


_STATE = 4
"""The column of the table that has the state."""


def _parts(diagnosis: Diagnosis) -> _Parts:
    here = diagnosis.installed
    short, notes = _reasons_once(diagnosis)
    rows = [
        (
            result.env + ("*" if result.env == diagnosis.best else ""),
            *_versions(result),
            result.headline,
            *([_INSTALLED[here[result.env]] if result.env in here else ""] if here else []),
            short.get(why(result), why(result)),
        )
        for result in diagnosis.results
    ]
    return _Parts(
        machine=_host_lines(diagnosis.host),
        columns=("environment", "torch", "vision", "audio", "here", *(["installed"] if here else []), "why"),
        rows=rows,
        proven=[(each.env, diagnosis.proven[each.env]) for each in diagnosis.results if each.env in diagnosis.proven],
        to_do=[as_typed_here(sentence) for sentence in (*notes, *diagnosis.advice)],
    )


def diagnosis_lines(diagnosis: Diagnosis) -> str:
    """Return what `diagnosis_text` shows as plain text without folded lines, for what is no terminal."""
    parts = _parts(diagnosis)
    blocks = [aligned(parts.machine), aligned([parts.columns, *parts.rows])]
    if parts.proven:
        blocks.append("Evidence on these locks\n" + aligned(parts.proven))
    blocks.append("\n".join(f"- {sentence}" for sentence in parts.to_do))
    return printable("\n\n".join(filter(None, blocks)), lines=True)


def diagnosis_text(diagnosis: Diagnosis) -> RenderableType:
    """Return the machine in a few lines, a row for each environment, and advice, for rich."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts = _parts(diagnosis)
    machine = Table.grid(padding=(0, 2))
    machine.add_column(no_wrap=True)
    machine.add_column(overflow="fold")
    for name, value in parts.machine:
        machine.add_row(Text(name), Text(value))
    table = Table(*parts.columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap = True
    table.columns[_STATE].max_width = 16
    table.columns[-1].overflow = "fold"
    for result, row in zip(diagnosis.results, parts.rows, strict=True):
        cells = [Text(cell) for cell in row]
        cells[_STATE].stylize(_STYLES[result.state])
        table.add_row(*cells)
    to_do = Table.grid(padding=(0, 1))
    for sentence in parts.to_do:
        to_do.add_row(Text("-"), Text(sentence, overflow="fold"))
    proven = Table.grid(padding=(0, 2))
    proven.add_column(no_wrap=True)
    for env, line in parts.proven:
        proven.add_row(Text(env), Text(line, overflow="fold"))
    evidence: list[RenderableType] = [Text("Evidence on these locks"), proven, Text()] if parts.proven else []
    return Group(machine, Text(), table, Text(), *evidence, to_do)


def _reasons_once(diagnosis: Diagnosis) -> tuple[dict[str, str], list[str]]:
    """Return short forms of reasons that several environments share, and the sentences with the full reasons."""
    short: dict[str, str] = {}
    notes: list[str] = []
    waiting = [result for result in diagnosis.results if any(reason.kind == "no-driver" for reason in result.reasons)]
    if len(waiting) > 1:
        short |= {
            why(result): f"driver {result.reasons[0].driver} or newer" for result in waiting if len(result.reasons) == 1
        }
        notes.append(
            "There is no driver here. The others can be built here for a machine with the driver that they need."
        )
    shared = [text for text, count in Counter(map(why, diagnosis.results)).items() if text and count > 2]
    for mark, text in zip(ascii_lowercase, (text for text in shared if text not in short), strict=False):
        short[text] = f"see ({mark})"
        notes.append(f"({mark}) {text}")
    return short, notes


def _versions(result: Compatibility) -> list[str]:
    """Return the versions of torch, torchvision and torchaudio; `no` where the environment does not have one."""
    there = dict(text.split() for text in result.holds)
    return [there.get(name, "no") if there else "" for name in ("torch", "torchvision", "torchaudio")]


def why(result: Compatibility) -> str:
    """Return the reasons that decide a compatibility, in one line."""
    decisive = result.blocking if result.state == "does-not-run" else result.reasons
    return "; ".join(reason.text for reason in decisive)


def diagnosis_json(diagnosis: Diagnosis) -> str:
    """Format the diagnosis as JSON; its `host` is a host record, which `torchlocks doctor --host` reads."""
    return json.dumps(
        {
            "torchlocks": __version__,
            "host": asdict(diagnosis.host),
            "virtual_packages": diagnosis.host.virtual_packages,
            "best": diagnosis.best,
            "environments": [
                {**asdict(result), "headline": result.headline, "evidence": diagnosis.proven.get(result.env)}
                for result in diagnosis.results
            ],
            "installed": dict(diagnosis.installed),
            "advice": [as_typed_here(sentence) for sentence in diagnosis.advice],
        },
        indent=2,
        ensure_ascii=False,
    )


_STYLES = {"runs": "green", "runs-with-remark": "green", "unknown": "yellow", "does-not-run": "red"}
_INSTALLED = {True: "verified", False: "failed", None: "not verified"}


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

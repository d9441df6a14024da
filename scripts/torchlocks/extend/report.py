"""What a lock on a base contains, for people and for programs: the unchanged base, what moved, what was added."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass

from torchlocks.diff.compare import Change, diff
from torchlocks.diff.read import Side
from torchlocks.extend.lock import Extended


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One platform: how many packages are the base's, which of its packages moved, and what was added."""

    platform: str
    kept: int
    moved: tuple[Change, ...]
    added: tuple[Change, ...]


def layers(done: Extended) -> tuple[Layer, ...]:
    """Compare the new lock with its base, platform by platform."""
    found = diff(
        Side(name=done.base.name.text, packages=done.base.lock.packages),
        Side(name=str(done.path), packages=done.lock.packages),
    )
    result = []
    for platform in found.platforms:
        added = tuple(change for change in platform.changes if change.move == "added")
        moved = tuple(change for change in platform.changes if change.move != "added")
        kept = len(done.lock.packages[platform.platform]) - len(added) - len(moved)
        result.append(Layer(platform=platform.platform, kept=kept, moved=moved, added=added))
    return tuple(result)


def as_text(done: Extended) -> str:
    """Format as a few lines for each platform; every package that moved has its own."""
    commit = f" at commit {done.base.name.commit[:12]}" if done.base.name.commit else ""
    lines = [f"base {done.base.name.text}{commit}, sha256 {done.base.lock.sha256[:16]}…"]
    for layer in layers(done):
        lines.append(f"{layer.platform}: {layer.kept} packages of the base as they are, {len(layer.added)} added")
        for change in layer.moved:
            if change.before and change.after:
                lines.append(f"  moved: {change.name} {_shown(change, before=True)} → {_shown(change)} ({change.move})")
        names = ", ".join(f"{change.name} {change.after.version}" for change in layer.added if change.after)
        lines += textwrap.wrap(names, 116, initial_indent="  added: ", subsequent_indent="         ")
    state = f"wrote {', '.join(done.changed)}" if done.changed else "unchanged"
    return "\n".join([*lines, f"{done.path}: {state}"]) + "\n"


def as_json(done: Extended) -> str:
    """Format for programs. `schema` changes when a key changes its meaning."""
    document = {
        "schema": 1,
        "lock": str(done.path),
        "sha256": done.lock.sha256,
        "changed": done.changed,
        "base": {"name": done.base.name.text, "commit": done.base.name.commit, "sha256": done.base.lock.sha256},
        "platforms": {
            layer.platform: {
                "kept": layer.kept,
                "moved": {
                    change.name: [change.before.file_name, change.after.file_name]
                    for change in layer.moved
                    if change.before and change.after
                },
                "added": [change.after.file_name for change in layer.added if change.after],
            }
            for layer in layers(done)
        },
    }
    return json.dumps(document, indent=2) + "\n"


def _shown(change: Change, *, before: bool = False) -> str:
    """Format a package by the fields that show how it moved."""
    package = change.before if before else change.after
    if package is None:
        return ""
    return package.version if change.move in ("upgraded", "downgraded") else f"{package.version} {package.build}"

"""A plan → the text of `matrix.yml`, preserving comments, order and anchors.

ruamel.yaml's round trip preserves what does not change. New rows and drivers are inserted as text, since ruamel
attaches a comment to the node before it, so that it would end up above the added node.
"""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from packaging.version import Version

from torchlocks.core.values import from_plain
from torchlocks.matrix.cells import Cell, Environment, Variant
from torchlocks.matrix.model import Matrix
from torchlocks.update.policy import Decision
from torchlocks.update.refresh import Plan

_CELL = (
    *("python", "pytorch", "release", "build", "torchvision", "torchaudio", "lacks", "glibc", "cuda_version"),
    *("architectures", "ptx", "oldest_gpu"),
)
_VARIANT = ("pytorch", "release", "build", "torchvision", "torchaudio", "python", "architectures", "ptx", "oldest_gpu")
_COMPANIONS = ("torchvision", "torchaudio", "release")


def rewrite(text: str, plan: Plan) -> str:
    """Return the text of a matrix after a plan."""
    for name in plan.before.rows:
        decisions = [each for each in plan.decisions if each.place.name == name]
        document = _yaml().load(text)
        if _row(document["environments"][name], plan.matrix.rows[name], plan.before.rows[name], decisions):
            # Parsed again for each row: rows that merge this one (`<<`) must see its new values.
            text = _tidied(_dumped(document), name)
    removed = [cuda for cuda in plan.before.left_out if cuda not in plan.matrix.left_out]
    if removed:
        document = _yaml().load(text)
        for cuda in removed:
            del document["left_out"][cuda]
        text = _dumped(document)
    for cuda in plan.matrix.drivers:
        if cuda not in plan.before.drivers:
            text = _with_drivers(text, cuda, plan.matrix)
    for name in plan.matrix.rows:
        if name not in plan.before.rows:
            text = _with_row(text, name, plan, [each for each in plan.decisions if each.place.name == name])
    return text


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    # Long reasons stay on one line.
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _dumped(document: Any) -> str:
    out = io.StringIO()
    _yaml().dump(document, out)
    return out.getvalue()


def _tidied(text: str, name: str) -> str:
    """Return the text with no blank line inside a row and one after it: ruamel attaches them to the node before."""
    lines = text.splitlines(keepends=True)
    start = next(n for n, line in enumerate(lines) if line.startswith(f"  {name}:"))
    end = next((n for n in range(start + 1, len(lines)) if re.match(r" {0,3}\S", lines[n])), len(lines))
    body = [line for line in lines[start:end] if line.strip()]
    return "".join([*lines[:start], *body, *(["\n"] if end < len(lines) else []), *lines[end:]])


def _row(node: Any, row: Environment, before: Environment, decisions: Sequence[Decision]) -> bool:
    """Apply decisions to a row's node; return whether it changed."""
    changed = row.constraints != before.constraints and _plain(node.get("constraints", [])) != list(row.constraints)
    if changed:
        node.insert(list(node).index("platforms"), "constraints", _flow_list(row.constraints))
    for decision in decisions:
        platform = decision.place.platform
        if not _is(node["platforms"].get(platform), decision.default):
            changed = True
            cells = _own(node, "platforms")
            if decision.default is None:
                del cells[platform]
            elif platform in cells:
                _set(cells[platform], _fields(decision.default))
            else:
                cells[platform] = _flow_map(_fields(decision.default))
        if not _variants_are(node.get("variants", {}).get(platform, ()), decision):
            changed = True
            _set_variants(_own(node, "variants"), decision)
    return changed


def _set_variants(variants: Any, decision: Decision) -> None:
    from ruamel.yaml.comments import CommentedSeq

    platform, default = decision.place.platform, decision.default
    if default is None or not decision.variants:
        del variants[platform]
        return
    # An equal variant keeps its spelling.
    known = [(_resolved(each, default), each) for each in variants.get(platform, ())]
    variants[platform] = CommentedSeq(
        next((each for cell, each in known if cell == wanted), None) or _flow_map(_variant(wanted, default))
        for wanted in decision.variants
    )


def _own(node: Any, key: str) -> Any:
    """Return the value of a key of a row: created if missing, copied if it is inherited through `<<`."""
    from ruamel.yaml.comments import CommentedMap

    if key not in node:
        node[key] = CommentedMap()
    elif key not in node.lc.data:
        node[key] = copy.deepcopy(node[key])
    return node[key]


def _is(node: Any, cell: Cell | None) -> bool:
    if node is None or cell is None:
        return node is None and cell is None
    return bool(_plain(node) == _fields(cell))


def _variants_are(nodes: Any, decision: Decision) -> bool:
    if decision.default is None:
        return not nodes
    return [_resolved(each, decision.default) for each in nodes] == list(decision.variants)


def _resolved(node: Any, default: Cell) -> Cell:
    return from_plain(Variant, _plain(node)).cell(default)


def _fields(cell: Cell) -> dict[str, Any]:
    """Return the keys of a cell that differ from the format's defaults, as YAML values."""
    values = asdict(cell)
    fields = {key: values[key] for key in _CELL if values[key] is not None and values[key] != "default"}
    if cell.cuda_version is None:
        fields["cuda_version"] = None
    return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}


def _variant(cell: Cell, default: Cell) -> dict[str, Any]:
    """Return the keys of a variant: those that differ from the default, and companions, which it does not inherit."""
    values, theirs = asdict(cell), asdict(default)
    fields = {
        key: values[key]
        for key in _VARIANT
        if values[key] is not None and (key in _COMPANIONS or values[key] != theirs[key])
    }
    return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}


def _set(node: Any, fields: Mapping[str, Any]) -> None:
    """Change the keys of a node that differ; a comment above a removed key is removed as well."""
    keys = list(node)
    for key in keys:
        if key not in fields:
            before = keys[keys.index(key) - 1]
            node.ca.items.pop(before, None)
            del node[key]
    for key, value in fields.items():
        if key not in node or _plain(node[key]) != value:
            node[key] = _value(value)


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return str(node) if isinstance(node, str) else node


def _value(value: Any) -> Any:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, list):
        return _flow_list(value)
    return DoubleQuotedScalarString(value) if isinstance(value, str) else value


def _flow_list(values: Sequence[str]) -> Any:
    from ruamel.yaml.comments import CommentedSeq

    node = CommentedSeq(_value(each) for each in values)
    node.fa.set_flow_style()
    return node


def _flow_map(fields: Mapping[str, Any]) -> Any:
    from ruamel.yaml.comments import CommentedMap

    node = CommentedMap({key: _value(value) for key, value in fields.items()})
    node.fa.set_flow_style()
    return node


def _with_drivers(text: str, cuda: str, matrix: Matrix) -> str:
    """Insert a line into `drivers`, after the next older CUDA version."""
    drivers = matrix.drivers[cuda]
    line = f'  "{cuda}": {{linux: {{floor: "{drivers.linux.floor}"}}, windows: {{floor: "{drivers.windows.floor}"}}}}\n'
    lines = text.splitlines(keepends=True)
    start = lines.index("drivers:\n") + 1
    end = next((n for n in range(start, len(lines)) if re.match(r"\S", lines[n])), len(lines))
    place = start
    for number in range(start, end):
        found = re.match(r'  "(\d+\.\d+)":', lines[number])
        if found and Version(found[1]) < Version(cuda):
            place = number + 1
    return "".join([*lines[:place], line, *lines[place:]])


def _with_row(text: str, name: str, plan: Plan, decisions: Sequence[Decision]) -> str:
    """Insert a row after that of the next older CUDA version, or before the first of its major."""
    row = plan.matrix.rows[name]
    lines = text.splitlines(keepends=True)
    start = lines.index("environments:\n") + 1
    end = next((n for n in range(start, len(lines)) if re.match(r"[^\s#]", lines[n])), len(lines))
    versions = {
        found[1]: number
        for number in range(start, end)
        if (found := re.match(r"  ([a-z][a-z0-9-]*):", lines[number])) and found[1] in plan.matrix.rows
    }
    older = [
        each
        for each in versions
        if (cuda := plan.matrix.rows[each].cuda) is None or Version(cuda) < Version(row.cuda or "0")
    ]
    place = max((versions[each] for each in older), default=start)
    # Up to the last line of that row: comments and blank lines after it belong to the next one.
    last = place
    for number in range(place + 1, end):
        if re.match(r"  \S", lines[number]) and not lines[number].startswith("  #"):
            break
        if re.match(r"    ", lines[number]):
            last = number
    return "".join([*lines[: last + 1], "\n", *_row_lines(name, row, decisions), *lines[last + 1 :]])


def _row_lines(name: str, row: Environment, decisions: Sequence[Decision]) -> list[str]:
    lines = [f"  {name}:\n"]
    fields = {name: value for name, value in asdict(row).items() if value is not None}
    for key in ("accelerator", "cuda", "virtual_cuda", "template", "channels"):
        value = fields[key]
        quoted = key in ("cuda", "virtual_cuda")
        shown = f"[{', '.join(value)}]" if isinstance(value, tuple) else f'"{value}"' if quoted else value
        lines.append(f"    {key}: {shown}\n")
    for key in ("architectures", "ptx", "oldest_gpu", "constraints"):
        if fields.get(key):
            lines.append(f"    {key}: {_text(fields[key])}\n")
    lines.append("    platforms:\n")
    kept = [each for each in decisions if each.default is not None]
    lines += [f"      {each.place.platform}: {_text(_fields(each.default))}\n" for each in kept if each.default]
    if any(each.variants for each in kept):
        lines.append("    variants:\n")
        for each in kept:
            if each.default is not None and each.variants:
                lines.append(f"      {each.place.platform}:\n")
                lines += [f"        - {_text(_variant(cell, each.default))}\n" for cell in each.variants]
    return lines


def _text(value: Any) -> str:
    """Return a value in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_text, value)) + "]"
    return "null" if value is None else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'

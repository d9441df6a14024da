"""Fast reader of YAML files that have nothing but mappings, lists, texts and nulls, as `matrix.yml` has.

libyaml reads YAML 1.1 and lets a key overwrite an earlier one; ruamel.yaml reads YAML 1.2 and does not. This reader
refuses every text on which the two could disagree, so that what it returns is what ruamel.yaml returns.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_OTHER = re.compile(
    r"(?!\d+(?:\.\d+){2,}\Z)[-+.]?[0-9.].*|[-+]?\.?(?:inf|nan)|true|false|yes|no|on|off|y|n|=",
    re.IGNORECASE | re.DOTALL,
)
"""Scalars without quotes that may be no text: in YAML 1.1, in 1.2, or in both. A version of three parts is text."""
_MERGE = "tag:yaml.org,2002:merge"
_NULL = ("null", "~", "Null", "NULL", "")
_DISPUTED = re.compile("^%|[\t\x85\u2028\u2029\ufeff]", re.MULTILINE)
"""Directives, tabs, and what ends a line in YAML 1.1 alone."""
_PLAIN = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


def load_plain(text: str) -> Any:
    """Return the document in a YAML text. Raises ValueError for what may be read otherwise, and yaml.YAMLError."""
    import yaml

    if _DISPUTED.search(text):
        raise ValueError("directives, tabs or unusual ends of lines")
    return yaml.load(text, Loader=_loader())


@cache
def _loader() -> Any:
    import yaml

    base: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

    class Loader(base):  # type: ignore[misc]
        """Constructs texts, nulls, lists, and mappings without equal keys."""

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            if node.tag == _MERGE:
                return _MERGE
            if node.tag not in _PLAIN:
                raise ValueError("a tag")
            return super().construct_object(node, deep=deep)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            for key, _ in node.value:
                if key.value == "<<" and not key.style:
                    key.tag = _MERGE
            found: Any = super().construct_mapping(node, deep=deep)
            if len(found) != len(node.value) or not all(isinstance(key, str) for key in found):
                raise ValueError("keys that are equal or no text")
            if _MERGE not in found:
                return found
            merged = found.pop(_MERGE)
            if not isinstance(merged, dict):
                raise ValueError("a merge key without a mapping")
            return found | {key: value for key, value in merged.items() if key not in found}

        def construct_scalar(self, node: Any) -> Any:
            text: Any = super().construct_scalar(node)
            if node.style in ("'", '"') and text != _MERGE:
                return text
            if node.style or text == "<<" or _OTHER.fullmatch(text):
                raise ValueError("a block, or a scalar without quotes that may be a number")
            return None if text in _NULL else text

    return Loader

"""The fast reader returns what ruamel.yaml returns, or refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from yaml import YAMLError

from torchlocks.core.plain_yaml import load_plain
from torchlocks.matrix.load import parse_matrix

ROOT = Path(__file__).parents[3]


def ordered(document: Any) -> Any:
    """Return a document with its mappings as lists of pairs, so that the order of keys is compared, too."""
    if isinstance(document, dict):
        return [(key, ordered(value)) for key, value in document.items()]
    return [ordered(value) for value in document] if isinstance(document, list) else document


@pytest.mark.parametrize(
    "text",
    [
        "a: b\nc: ['1.10', \"on\"]\nd: {e: null, f: ~, g: }\n",
        "a: &x {p: q, r: s}\nb: {t: u, <<: *x, r: v}\nc:\n  <<: *x\n  p: z\n",
        "a: none yet\nb: not a number, 1.5\nc: -x\nd: linux-64\n",
        "a: 535.104.05\nb: [2.10.0, 12.4.1.5]\n",
        (ROOT / "matrix.yml").read_text(encoding="utf-8"),
    ],
)
def test_it_returns_the_same_in_the_same_order(text: str) -> None:
    assert ordered(load_plain(text)) == ordered(YAML(typ="rt").load(text))


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"a: {scalar}\n"
            for scalar in ("1", "1.10", "1.10.", "1.2.3e4", "0o17", "1e3", "12:30", "on", "No", "true", "2026-01-01")
        ),
        *("a: b\na: c\n", "1: a\n", "a: !!int '3'\n", "a: !x y\n", "%YAML 1.1\n---\na: b\n", "a: b\u0085c: d\n"),
        *("a: b\n---\nc: d\n", "a: [", "a: {<<: b}\n", "a: <<\n", "a: |\n  b\n", "? [a]\n: b\n"),
    ],
)
def test_it_refuses_what_may_be_read_otherwise(text: str) -> None:
    with pytest.raises((ValueError, TypeError, YAMLError)):
        load_plain(text)


@given(st.text(alphabet="ab1.e:-_ \n{}[],&*<!'\"|>#?~no\t%", max_size=40))
def test_it_never_returns_anything_else(text: str) -> None:
    try:
        found = load_plain(text)
    except (ValueError, TypeError, YAMLError):
        return
    assert ordered(found) == ordered(YAML(typ="rt").load(text))


def test_ruamel_does_not_read_a_matrix_that_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchlocks.matrix.load._parse", lambda *_: pytest.fail("read by ruamel.yaml"))
    assert "cpu" in parse_matrix((ROOT / "matrix.yml").read_text(encoding="utf-8"), ROOT / "matrix.yml").rows

"""The quick reader of validated dataclasses: it accepts only what pydantic accepts, with the same values."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from torchlocks.core.values import Limited, Strict, from_plain
from torchlocks.matrix.model import Matrix

MATRIX = Path(__file__).parents[3] / "matrix.yml"


def few() -> Any:
    """Two environments of the real matrix on one platform, with two variants each."""
    document = yaml.load(MATRIX.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    rows = {name: document["environments"][name] for name in ("cpu", "gpu-cu126")}
    for row in rows.values():
        row["platforms"] = {"linux-64": row["platforms"]["linux-64"]}
        row["variants"] = {"linux-64": row["variants"]["linux-64"][:2]}
    drivers = {"12.6": document["drivers"]["12.6"]}
    return document | {"environments": rows, "drivers": drivers, "local": {}, "left_out": {}}


FEW = few()
ADAPTER = TypeAdapter(Matrix)
OTHERS: list[Any] = [None, "", "1.2", "1.2\n", "٣.٣", "12", "linux-64", "cpu", "default", 3, 1.2, True]
OTHERS += [[], ["1.2"], [None], {}, {"1.2": "x"}, {"linux-64": {}}, "x" * 50]


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every container with each of its keys."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in ((node, key), *places(node[key]))]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_is_accepted_is_what_pydantic_makes_of_it(data: st.DataObject) -> None:
    document = copy.deepcopy(FEW)
    for _ in range(data.draw(st.integers(1, 2))):
        node, key = data.draw(st.sampled_from(places(document)))
        change = data.draw(st.sampled_from(["value", "value", "new key", "gone"]))
        if change == "value":
            node[key] = copy.deepcopy(data.draw(st.sampled_from(OTHERS)))
        elif change == "gone":
            del node[key]
        elif isinstance(node, dict):
            node[data.draw(st.sampled_from(["another", "rows", "1.2", "win-64"]))] = copy.deepcopy(node[key])
    try:
        expected = ADAPTER.validate_python(document)
    except ValidationError:
        expected = None
    try:
        found = from_plain(Matrix, document)
    except ValueError:
        return
    assert found == expected


@dataclass(frozen=True, kw_only=True)
class Sample(Strict):
    name: Annotated[str, Limited(pattern=r"^\d+$", max_length=3)]
    kind: Literal["a", "b"] = "a"
    items: Annotated[tuple[str, ...], Limited(min_length=1)] = ("one",)
    other: str | None = None


def test_a_valid_value_is_read_with_its_defaults() -> None:
    assert from_plain(Sample, {"name": "12"}) == Sample(name="12")
    value = {"name": "12", "kind": "b", "items": ["x", "y"], "other": None}
    assert from_plain(Sample, value) == Sample(name="12", kind="b", items=("x", "y"))
    assert TypeAdapter(Sample).validate_python(value) == from_plain(Sample, value)


@pytest.mark.parametrize(
    "value",
    [
        *({}, [], None, {"name": 12}, {"name": "1x"}, {"name": "1234"}, {"name": "1\n"}, {"name": None}),
        *({"name": "1", "kind": "c"}, {"name": "1", "items": []}, {"name": "1", "items": "xy"}),
        *({"name": "1", "items": ["x", None]}, {"name": "1", "other": ["x"]}, {"name": "1", "more": "x"}),
    ],
)
def test_what_is_not_valid_is_refused_by_both(value: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        from_plain(Sample, value)
    with pytest.raises(ValidationError):
        TypeAdapter(Sample).validate_python(value)

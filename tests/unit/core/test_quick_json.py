"""The quick reader of JSON: the same as the standard library's, for all that is JSON and all that is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from torchlocks.core.quick_json import loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(value=VALUES, indent=st.none() | st.just(2), ascii=st.booleans())
def test_a_document_is_read_as_by_the_standard_library(value: Any, indent: int | None, ascii: bool) -> None:
    assert loads(json.dumps(value, indent=indent, ensure_ascii=ascii).encode() + b"\n") == value


@given(data=st.text('{}[]",:0123456789eE.-+ \n\\tfnualNrsI\ufeff', max_size=12).map(str.encode) | st.binary(max_size=8))
def test_so_is_what_is_none(data: bytes) -> None:
    assert outcome(loads, data) == outcome(json.loads, data)


def outcome(read: Callable[[bytes], Any], data: bytes) -> str:
    """Return the value, or the error, as text."""
    try:
        return repr(read(data))
    except ValueError as error:
        return str(error)

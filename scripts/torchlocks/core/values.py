"""Dataclasses that a file is read into: what their fields may be, and a quick reader of values that are valid.

pydantic validates such a class by `TypeAdapter`, and words what is wrong; its import takes longer than most commands
need for all else. `from_plain` accepts what is plainly valid, and leaves everything else to pydantic.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable, Hashable
from functools import cache
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

T = TypeVar("T")
Reader = Callable[[Any], Any]


class Strict:
    """Base of a dataclass that is read from a file, and has no keys but its fields."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclasses.dataclass(frozen=True)
class Limited:
    """Annotation of a field: the regular expression of a text (`^…$`), its most characters, the fewest items."""

    pattern: str | None = None
    max_length: int | None = None
    min_length: int | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Add the limits to pydantic's schema of the field."""
        schema: Any = handler(source)
        return {**schema, **{name: value for name, value in dataclasses.asdict(self).items() if value is not None}}

    def allows(self, value: Any) -> bool:
        """Return whether a value is within the limits; False for some that pydantic's patterns match, such as `٣`."""
        return (
            (self.pattern is None or re.fullmatch(self.pattern, value, re.ASCII) is not None)
            and (self.max_length is None or len(value) <= self.max_length)
            and (self.min_length is None or len(value) >= self.min_length)
        )


def from_plain(kind: type[T], value: Any) -> T:
    """Return a mapping of texts, nulls, lists and mappings as the dataclass `kind`, as pydantic would.

    Raises ValueError for all that may be invalid, which pydantic then decides. Fields are texts, dataclasses, and
    optional ones, tuples and dictionaries of these.
    """
    found: T = _reader(cast(Hashable, kind))(value)
    return found


@cache
def _reader(kind: Any) -> Reader:
    if dataclasses.is_dataclass(kind):
        return _dataclass_reader(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _limited(_reader(arguments[0]), [each for each in arguments[1:] if isinstance(each, Limited)])
    if origin is Literal:
        return _limited(_reader(str), [_OneOf(arguments)])
    if origin in (Union, types.UnionType) and len(arguments) == 2 and arguments[1] is types.NoneType:
        inner = _reader(arguments[0])
        return lambda value: None if value is None else inner(value)
    if origin is tuple and arguments[1:] == (...,):
        item = _reader(arguments[0])
        return lambda value: tuple(map(item, _instance(value, list)))
    if origin is dict:
        name, content = map(_reader, arguments)
        return lambda value: {name(key): content(each) for key, each in _instance(value, dict).items()}
    if kind is str:
        return lambda value: _instance(value, str)
    raise TypeError(f"fields of this kind are not read: {kind}")


def _dataclass_reader(kind: Any) -> Reader:
    hints = get_type_hints(kind, include_extras=True)
    # As pydantic names the keys.
    alias = getattr(kind, "__pydantic_config__", {}).get("alias_generator", str)
    fields = {alias(each.name): (each.name, _reader(hints[each.name])) for each in dataclasses.fields(kind)}

    def read(value: Any) -> Any:
        given = _instance(value, dict)
        if not given.keys() <= fields.keys():
            raise ValueError("an unknown key")
        try:
            return kind(**{fields[key][0]: fields[key][1](each) for key, each in given.items()})
        except TypeError:
            raise ValueError("a missing key") from None

    return read


@dataclasses.dataclass(frozen=True)
class _OneOf:
    values: tuple[Any, ...]

    def allows(self, value: Any) -> bool:
        return value in self.values


def _limited(inner: Reader, limits: list[Limited] | list[_OneOf]) -> Reader:
    def read(value: Any) -> Any:
        found = inner(value)
        if not all(limit.allows(found) for limit in limits):
            raise ValueError("a value outside of its limits")
        return found

    return read


def _instance(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise ValueError(f"no {kind.__name__}")
    return value

"""Structs to rows and back: a column per field, what is no scalar as JSON text."""

from __future__ import annotations

import functools
import json
import operator
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from receiver.deliveries import Delivery
from receiver.tasks import clean_text

T = TypeVar("T", bound=msgspec.Struct)

_SCALARS = (str, int, float, bool, bytes)


@functools.cache
def _columns(type: type[msgspec.Struct]) -> tuple[tuple[str, bool], ...]:
    """(field, whether it is stored as JSON) of each field."""
    return tuple((field.name, not _is_scalar(field.type)) for field in msgspec.structs.fields(type))


@functools.cache
def _readers(type: type[msgspec.Struct]) -> tuple[tuple[str, Callable[[Any], Any] | None], ...]:
    """(field, what makes its value of the column's, None: nothing) of each field."""
    return tuple(
        (field.name, bool if field.type is bool else None)
        if _is_scalar(field.type)
        else (field.name, msgspec.json.Decoder(field.type).decode)
        for field in msgspec.structs.fields(type)
    )


def _is_scalar(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return all(_is_scalar(argument) for argument in typing.get_args(annotation))
    return origin is typing.Literal or annotation is types.NoneType or annotation in _SCALARS


def to_row(struct: msgspec.Struct) -> dict[str, Any]:
    """Column values of a struct, for named parameters."""
    return {name: _stored(getattr(struct, name), as_json) for name, as_json in _columns(type(struct))}


def _stored(value: Any, as_json: bool) -> Any:
    if value is None:
        return None
    if as_json:
        return to_json(value)
    return clean_text(value) if isinstance(value, str) else value


def to_json(value: Any) -> str:
    """JSON text that every database can store: half characters, which no encoding knows, become U+FFFD."""
    return to_json_bytes(value).decode()


def to_json_bytes(value: Any) -> bytes:
    """The same in UTF-8, for statements that CAST it to text: a `str` would be made and unmade for nothing."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return clean_text(json.dumps(msgspec.to_builtins(value), ensure_ascii=False)).encode()


def reader(type: type[T], columns: typing.Mapping[str, int]) -> Callable[[typing.Sequence[Any]], T]:
    """What makes structs of rows that have their columns at these positions: quicker than `from_row` for many."""
    names = [name for name, _ in _readers(type)]
    pick = operator.itemgetter(*(columns[name] for name in names))
    reads = [(name, read) for name, read in _readers(type) if read is not None]

    def read_row(row: typing.Sequence[Any]) -> T:
        values = dict(zip(names, pick(row), strict=True))
        for name, read in reads:
            if values[name] is not None:
                values[name] = read(values[name])
        return type(**values)

    return read_row


def from_row(type: type[T], row: typing.Mapping[str, Any]) -> T:
    """A struct from a row that has at least its columns."""
    values: dict[str, Any] = {}
    for name, read in _readers(type):
        value = row[name]
        values[name] = value if read is None or value is None else read(value)
    return type(**values)


def delivery_from_row(row: typing.Mapping[str, Any]) -> Delivery:
    """The same for a delivery, and without its receipt where that cannot be read: it can be listed, freed and ended all
    the same."""
    try:
        return from_row(Delivery, row)
    except msgspec.DecodeError:
        return from_row(Delivery, {**row, "receipt": None})

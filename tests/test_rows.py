"""Structs to rows and back."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.deliveries import AttemptRecord, Completion, Delivery
from receiver.events import Callback, Event, Submission
from receiver.journal.rows import from_row, to_row


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Any value of a field."""
    arguments = typing.get_args(annotation)
    if annotation in PLAIN:
        return PLAIN[annotation]
    if not arguments:
        return structs(annotation)
    return GENERIC.get(typing.get_origin(annotation), _any_of)(arguments)


def _any_of(arguments: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    return st.one_of([values(argument) for argument in arguments])


GENERIC: dict[Any, Callable[[tuple[Any, ...]], st.SearchStrategy[Any]]] = {
    typing.Literal: st.sampled_from,
    tuple: lambda arguments: st.lists(values(arguments[0]), max_size=2).map(tuple),
    dict: lambda arguments: st.dictionaries(TEXT, values(arguments[1]), max_size=2),
}


def structs(type: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(type)
    return st.builds(type, **{item.name: values(hints[item.name]) for item in msgspec.structs.fields(type)})


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT | st.sampled_from(["null", "1", "true", "", "[]"]),
    int: st.integers(0, 2**53),
    bytes: st.binary(max_size=8),
    bool: st.booleans(),
    type(None): st.none(),
    Any: st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT | st.lists(TEXT, max_size=2),
}
STRUCTS: list[Any] = [Submission, Delivery, AttemptRecord, Completion, Callback, Event]


@pytest.mark.parametrize("type", STRUCTS)
@given(st.data())
def test_structs_survive_their_rows(type: Any, data: st.DataObject) -> None:
    """What is written is read again, whatever the fields hold: texts that look like something else too."""
    made = data.draw(structs(type))
    assert from_row(type, to_row(made)) == made

"""Pictures of a request: which field each goes into, and how they get there (PROTOCOL.md §2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from receiver.errors import InputError
from receiver.provider.checks import check_source, is_link

MAX_PICTURES = 5
"""Of one request."""

LIST = "base64Array"
MASK = "maskBase64"

_DOWNLOAD = "Download it and give the file"


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureField:
    """A picture, and the field of the body it goes into as a data URI.

    Attributes:
        field: e.g. `base64Array`, `image`, `maskBase64`.
        source: a path or a data URI, not read yet; never a link, which the body holds itself.
    """

    field: str
    source: str

    @property
    def many(self) -> bool:
        """Whether the field is a list, in the order of the pictures."""
        return self.field == LIST

    @property
    def mask(self) -> bool:
        """Whether it says where to repaint: white is repainted, black is kept (PROTOCOL.md §2, modal)."""
        return self.field == MASK


def with_pictures(body: Mapping[str, Any], pictures: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The body with its pictures in place.

    Args:
        body: a request's.
        pictures: (field, data URI), in the order of `Request.pictures`.
    """
    whole = dict(body)
    for field, uri in pictures:
        whole[field] = [*whole.get(field, ()), uri] if field == LIST else uri
    return whole


def files(sources: Sequence[str], least: int, *, remedy: str = _DOWNLOAD) -> tuple[PictureField, ...]:
    """The pictures of `base64Array`, which takes no links.

    Raises:
        InputError: too few or too many, or one that cannot be sent.
    """
    if not isinstance(sources, list | tuple):
        raise InputError("Pictures must be a list of paths or data URIs.")
    if not least <= len(sources) <= MAX_PICTURES:
        allowed = f"{least} to {MAX_PICTURES}" if least else f"at most {MAX_PICTURES}"
        raise InputError(f"A request like this takes {allowed} pictures, not {len(sources)}.")
    return tuple(PictureField(field=LIST, source=_file("A picture", source, remedy)) for source in sources)


def mask_field(source: str | None) -> tuple[PictureField, ...]:
    """The mask, if one is given; no link.

    Raises:
        InputError: it cannot be sent.
    """
    return () if source is None else (PictureField(field=MASK, source=_file("The mask", source, _DOWNLOAD)),)


def link_or_file(
    field: str, source: str | None, *, link: str | None = None
) -> tuple[dict[str, Any], tuple[PictureField, ...]]:
    """A picture in a field of its own: (what the body holds of it, what is put there as a data URI later).

    Args:
        field: where a file goes.
        source: a path, a data URI or a link; None where the request may do without it.
        link: where a link goes, if not into the same field.

    Raises:
        InputError: it cannot be sent.
    """
    if source is None:
        return {}, ()
    checked = check_source(f"The picture for {field}", source)
    if is_link(checked):
        return {link or field: checked}, ()
    return {}, (PictureField(field=field, source=checked),)


def _file(what: str, source: str, remedy: str) -> str:
    checked = check_source(what, source)
    if is_link(checked):
        raise InputError(f"{what} is a link, {checked[:80]!r}, but must be a file or a data URI here. {remedy}.")
    return checked

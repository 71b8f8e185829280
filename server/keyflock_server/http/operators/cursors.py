"""Cursors: a row's place in a list, as the text that a client brings back for the next page."""

import base64
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from keyflock_server.protocol.problems import ApiError, ProblemCode

T = TypeVar("T")


def encode_cursor(place: object | None) -> str | None:
    """Return a place as text; None, which ends a list, stays None."""
    if place is None:
        return None
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def decode_cursor(text: str | None, kind: type[T]) -> T | None:
    """Return the place that ``encode_cursor`` wrote; raises ApiError ``malformed_query`` for another text."""
    if text is None:
        return None
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        place = msgspec.json.decode(data, type=kind)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        place = None
    if place is None or not _is_plain(place):
        detail = "after: this is no next of a page of this list; begin without it."
        raise ApiError(ProblemCode.MALFORMED_QUERY, detail, problems=(detail,))
    return place


def _is_plain(place: Any) -> bool:  # noqa: ANN401 - a place of any list
    """Return whether a database takes the place: texts have no control characters, numbers fit."""
    match place:
        case str():
            return place.isprintable()
        case int():
            return 0 <= place < 2**31
        case datetime():
            return place.tzinfo is not None
        case tuple():
            return all(map(_is_plain, place))
        case _:
            return True

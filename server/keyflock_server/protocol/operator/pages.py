"""Lists: a page of items at a time, and where the next one begins.

A page may have fewer items than asked for; it is the last one only where ``next`` is null. Items that are
added or removed meanwhile neither repeat nor hide others.
"""

from typing import Annotated, Final

from msgspec import Meta

from keyflock_server.protocol.operator.call import Query

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000
MAX_CURSOR_CHARS: Final = 400

#: Where a page begins: the ``next`` of the page before, unchanged.
Cursor = Annotated[str, Meta(min_length=1, max_length=MAX_CURSOR_CHARS, pattern=r"^[A-Za-z0-9_\-]*\Z")]


class PageQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the query strings of lists."""

    #: Maximum number of items.
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    #: Where the page begins: the ``next`` of the page before; left out for the first one.
    after: Cursor | None = None

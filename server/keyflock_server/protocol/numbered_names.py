"""Names that are used again: what has a name first has it as its id, what has it next has ``name~2``.

An id is never used twice. No name that a phone or an operator may give holds a ``~``, so an id with a number
is nobody's name.
"""

from collections.abc import Iterable
from typing import Annotated, Final, TypeVar

from msgspec import Meta

N = TypeVar("N", bound=str)

_SEPARATOR: Final = "~"
#: What the database holds of an id.
MAX_ID_CHARS: Final = 64
#: The type of an id in stored messages: a name as in ``fields.Name``, perhaps with a number.
NumberedName = Annotated[
    str, Meta(min_length=1, max_length=MAX_ID_CHARS, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*(?:~[0-9]+)?\Z")
]


def base_name(id_: N) -> N:
    """Return the name that an id was made of."""
    return type(id_)(id_.partition(_SEPARATOR)[0])


def number_of(id_: str) -> int | None:
    """Return the number in an id or an operator's address; None if it names none, or no number."""
    digits = id_.partition(_SEPARATOR)[2]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < MAX_ID_CHARS else None


def next_id(name: N, used: Iterable[str]) -> N | None:
    """Return the id of the next thing of this name, after those that used it; None if it is too long."""
    last = max((number_of(id_) or 1 for id_ in used), default=0)
    id_ = name if last == 0 else type(name)(f"{name}{_SEPARATOR}{last + 1}")
    return id_ if len(id_) <= MAX_ID_CHARS else None


def by_number(ids: Iterable[N]) -> list[N]:
    """Return ids of one name in the order in which they were used."""
    return sorted(ids, key=lambda id_: number_of(id_) or 1)


def numbered_prefix(name: str) -> str:
    """Return what every id with a number of this name begins with."""
    return f"{name}{_SEPARATOR}"


def address(name: str, number: int) -> str:
    """Return how an operator names one of several things of a name that is not the newest."""
    return f"{name}{_SEPARATOR}{number}"

"""What the table of operator calls says of each call.

The admin port routes, checks and decodes by the table, the command line calls by it, and the OpenAPI document
is generated from it. To add a call, write a row into its resource's module; ``table`` collects the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar

from msgspec import Meta, Struct

from keyflock_server.protocol.roles import Role

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
TOML: Final = "application/toml"

MAX_CHECKPOINT_BYTES: Final = 268_435_456
MAX_TASK_BYTES: Final = 65_536
MAX_QUESTION_BYTES: Final = 8_192
MAX_ORDER_BYTES: Final = 4_096

Q = TypeVar("Q", bound="Query")
B = TypeVar("B")
A = TypeVar("A")

#: An operator's reason, for later readers. It must hold no user text.
Reason = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=300,
        pattern=r"^[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]*\Z",
        description="Why, for later readers; printable, and without any user's text.",
    ),
]


class Query(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all query strings; by itself that of a call without query parameters."""


class ReasonQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query string of a change whose body is a task or a checkpoint."""

    reason: Reason


class ReasonOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a change that needs a reason and nothing else."""

    reason: Reason


class NoBody(Struct, frozen=True):
    """The body of a call that takes none."""


@dataclass(frozen=True, slots=True)
class OperatorCall(Generic[Q, B, A]):
    """One call of the operator API."""

    name: str
    method: str
    #: The path, with ``{name}`` for each path parameter.
    path: str
    #: The weakest role that may make it; None: it needs no token and tells nothing of this server.
    role: Role | None
    #: The query parameters: a ``Query`` whose fields they are.
    query: type[Q]
    #: The struct that a JSON body is decoded to; ``bytes`` for a body of ``media_types``; or ``NoBody``.
    body: type[B]
    #: The struct of the answer, or ``bytes`` for an answer of ``answer_media_type``.
    answer: type[A]
    #: One sentence for the API's document.
    summary: str
    #: The status of success.
    status: int = 200
    #: 0: by the type of the body.
    max_bytes: int = 0
    media_types: Sequence[str] = (JSON,)
    answer_media_type: str = JSON
    #: Whether it creates something, and takes the header ``Idempotency-Key``.
    is_creation: bool = False
    #: Whether it changes something with a revision, and takes the header ``If-Match``.
    takes_if_match: bool = False

    @property
    def max_body_bytes(self) -> int:
        """Return the maximum size of the body; 0 if the call takes none."""
        return 0 if self.body is NoBody else self.max_bytes or MAX_ORDER_BYTES

    @property
    def media_type(self) -> str:
        """Return the media type that clients send the body in; empty if the call takes none."""
        return "" if self.body is NoBody else self.media_types[0]

    @property
    def is_mutation(self) -> bool:
        """Return whether the call changes something."""
        return self.method != "GET" and self.role is not Role.VIEWER


AnyCall: TypeAlias = OperatorCall[Any, Any, Any]

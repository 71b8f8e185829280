"""The table of SDK endpoints: what each call sends, what it gets, and how large its body may be.

Handlers, the simulator's phones and the documentation all use this one table. An ``Exchange`` carries a call
to the server: over HTTP, or by a function call in a simulation.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from keyflock_server.protocol import messages, stored_data
from keyflock_server.protocol.fields import Message

MEDIA_TYPE: Final = "application/msgpack"
PROBLEM_MEDIA_TYPE: Final = "application/problem+msgpack"
MODEL_MEDIA_TYPE: Final = "application/vnd.keyflock.model"
VOCABULARY_MEDIA_TYPE: Final = "application/vnd.keyflock.vocabulary"
HEAD_MEDIA_TYPE: Final = "application/vnd.keyflock.head"
HEAD_MAP_MEDIA_TYPE: Final = "application/vnd.keyflock.head-map"
ASSIGNMENT_HEADER: Final = "Keyflock-Assignment"
#: Carries the secret or the statement of the device's present user, to change, export or forget the user.
USER_HEADER: Final = "Keyflock-User"
#: The name that a phone lists in ``A-IM`` if it can apply a delta to a model that it has (RFC 3229).
MODEL_DELTA: Final = "keyflock-delta"

SMALL_BODY_BYTES: Final = 65_536
REPORT_BODY_BYTES: Final = 16_777_216
#: The same as ``keyflock_compression.MAX_STATE_BYTES``.
HEAD_BODY_BYTES: Final = 131_072


class Credential(StrEnum):
    """The credentials that a call needs."""

    NONE = "none"
    DEVICE = "device"
    #: The device's token and the assignment's.
    ASSIGNMENT = "assignment"


@dataclass(frozen=True, slots=True)
class Call:
    """One endpoint of the SDK protocol."""

    name: str
    method: str
    #: aiohttp's route syntax.
    path: str
    credential: Credential
    request: type[Message] | None
    #: None: the response is raw bytes with a media type of their own.
    answer: type | None
    max_body_bytes: int = 0
    #: The media type of the request's body.
    media_type: str = MEDIA_TYPE


ENROL: Final = Call(
    "enrol",
    "POST",
    "/v1/devices",
    Credential.NONE,
    messages.EnrolRequest,
    messages.Enrolment,
    SMALL_BODY_BYTES,
)
FORGET: Final = Call("forget", "DELETE", "/v1/devices/me", Credential.DEVICE, None, messages.Forgotten)
STORED_DATA: Final = Call(
    "stored_data", "GET", "/v1/devices/me", Credential.DEVICE, None, stored_data.StoredData
)
CHECK_IN: Final = Call(
    "check_in",
    "POST",
    "/v1/check-ins",
    Credential.DEVICE,
    messages.CheckIn,
    messages.CheckInAnswer,  # type: ignore[arg-type]  # a union of two messages
    SMALL_BODY_BYTES,
)
MODEL: Final = Call("model", "GET", "/v1/models/{version}", Credential.DEVICE, None, None)
RELEASED_MODEL: Final = Call(
    "released_model", "GET", "/v1/models/{version}/release", Credential.DEVICE, None, None
)
RELEASE: Final = Call(
    "release", "GET", "/v1/populations/{population}/release", Credential.DEVICE, None, messages.Release
)
VOCABULARY: Final = Call(
    "vocabulary", "GET", "/v1/populations/{population}/vocabulary", Credential.DEVICE, None, None
)
OFFER: Final = Call(
    "offer",
    "POST",
    "/v1/assignments/{assignment}/offer",
    Credential.ASSIGNMENT,
    messages.Offer,
    messages.OfferAnswer,
    SMALL_BODY_BYTES,
)
REPORT: Final = Call(
    "report",
    "PUT",
    "/v1/assignments/{assignment}/report",
    Credential.ASSIGNMENT,
    messages.Report,
    messages.Receipt,
    REPORT_BODY_BYTES,
)
FAILURE: Final = Call(
    "failure",
    "POST",
    "/v1/assignments/{assignment}/failure",
    Credential.ASSIGNMENT,
    messages.Failure,
    messages.FailureAck,
    SMALL_BODY_BYTES,
)

_HEAD_PATH: Final = "/v1/heads/{population}"
GET_HEAD: Final = Call("get_head", "GET", _HEAD_PATH, Credential.DEVICE, None, None)
PUT_HEAD: Final = Call(
    "put_head",
    "PUT",
    _HEAD_PATH,
    Credential.DEVICE,
    None,
    messages.HeadStored,
    HEAD_BODY_BYTES,
    HEAD_MEDIA_TYPE,
)
DELETE_HEAD: Final = Call("delete_head", "DELETE", _HEAD_PATH, Credential.DEVICE, None, messages.HeadErased)
HEAD_MAP: Final = Call("head_map", "GET", "/v1/models/{version}/head-map", Credential.DEVICE, None, None)
SUGGEST: Final = Call(
    "suggest",
    "POST",
    "/v1/suggestions",
    Credential.DEVICE,
    messages.SuggestionRequest,
    messages.Suggestions,
    SMALL_BODY_BYTES,
)

CALLS: Final = (
    ENROL,
    FORGET,
    STORED_DATA,
    CHECK_IN,
    MODEL,
    RELEASED_MODEL,
    RELEASE,
    VOCABULARY,
    OFFER,
    REPORT,
    FAILURE,
    GET_HEAD,
    PUT_HEAD,
    DELETE_HEAD,
    HEAD_MAP,
    SUGGEST,
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request: method, path with its parameters filled in, headers, body."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    #: The address of the connection's other end; empty without sockets. It is never logged or stored.
    peer: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """A response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class StreamedResponse(Response):
    """A response whose body follows in blocks, for as long as both ends want it; ``body`` is empty."""

    #: Yields the blocks; it begins to cost something when it is first read.
    blocks: Callable[[], AsyncGenerator[bytes]]


class Exchange(Protocol):
    """Carries one call to a server and returns the response.

    Raises:
        ConnectionError: the request or its response was lost; the server may or may not have acted.
    """

    async def send(self, request: Request) -> Response:
        """Return the server's response to ``request``."""
        ...

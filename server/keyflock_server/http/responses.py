"""Builds responses: messages and problem documents in a group's format, and the headers that go with them."""

import math
from dataclasses import dataclass
from typing import Final

import msgspec

from keyflock_server.http.routes import MethodNotAllowed
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.messages import PROTOCOL
from keyflock_server.protocol.problems import ApiError, ProblemCode

JSON_MEDIA_TYPE: Final = "application/json"
PROBLEM_JSON_MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """How an endpoint group writes its responses."""

    media_type: str
    problem_media_type: str
    is_json: bool

    def encode(self, message: msgspec.Struct) -> bytes:
        """Return the message in this format."""
        return msgspec.json.encode(message) if self.is_json else wire.encode(message)

    def response(self, message: msgspec.Struct, status: int = 200) -> Response:
        """Return a response that carries ``message``; it is never cached, since it may hold a token."""
        headers = {"content-type": self.media_type, "cache-control": "no-store"}
        return Response(status, headers, self.encode(message))

    def problem(self, error: ApiError) -> Response:
        """Return a response that carries the problem document of an error."""
        document = error.document()
        headers = {"content-type": self.problem_media_type, "cache-control": "no-store"}
        if document.retry is not None:
            headers["retry-after"] = str(math.ceil(document.retry.min_s))
        if document.status == 401:
            headers["www-authenticate"] = "Bearer"
        if isinstance(error, MethodNotAllowed):
            headers["allow"] = error.allowed
        if error.code is ProblemCode.PROTOCOL_UNSUPPORTED:
            headers["upgrade"] = f"keyflock/{PROTOCOL}"  # RFC 9110, 15.5.22
        return Response(document.status, headers, self.encode(document))


MSGPACK: Final = ResponseFormat(calls.MEDIA_TYPE, calls.PROBLEM_MEDIA_TYPE, is_json=False)
JSON: Final = ResponseFormat(JSON_MEDIA_TYPE, PROBLEM_JSON_MEDIA_TYPE, is_json=True)

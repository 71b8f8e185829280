"""Requests as bytes, and answers as far as a generator has to read them.

A generator that builds and parses every message with an HTTP library spends more on a call than the server
does. Here a request is one bytes object made beforehand, and of an answer only the status, the length and, on
demand, the body are read.
"""

from dataclasses import dataclass

from keyflock_server.protocol.calls import Request

_STATUS_AT = slice(9, 12)
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_CLOSE = b"\r\nconnection: close"
#: Answers without a body, whatever their headers say.
_WITHOUT_BODY = frozenset({204, 304})


class UnreadableAnswer(ValueError):
    """The bytes are no answer that this module can read."""


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The head of an answer."""

    status: int
    #: Where the body begins.
    body_at: int
    body_bytes: int
    #: Whether the server closes the connection after this answer.
    closes: bool


def to_bytes(request: Request, host: str = "127.0.0.1") -> bytes:
    """Return the whole request as it goes over a kept-alive connection."""
    headers = {"Host": host, **request.headers}
    if request.body or request.method in {"POST", "PUT"}:
        headers["Content-Length"] = str(len(request.body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{request.method} {request.path} HTTP/1.1\r\n{lines}\r\n".encode("ascii") + request.body


def read_head(data: bytes) -> AnswerHead | None:
    """Return the head of the answer that ``data`` begins with; None if it is not complete yet.

    Raises:
        UnreadableAnswer: it is no HTTP/1.1 answer with a ``Content-Length``.
    """
    end = data.find(_HEAD_END)
    if end < 0:
        return None
    head = data[: end + 2].lower()
    if not head.startswith(b"http/1.1 ") or not data[_STATUS_AT].isdigit():
        raise UnreadableAnswer("no HTTP/1.1 answer")
    status, body_bytes = int(data[_STATUS_AT]), 0
    if status not in _WITHOUT_BODY:
        at = head.find(_LENGTH)
        if at < 0:
            raise UnreadableAnswer("an answer without Content-Length")
        body_bytes = int(head[at + len(_LENGTH) : head.index(b"\r\n", at + 2)])
    return AnswerHead(status, end + len(_HEAD_END), body_bytes, _CLOSE in head)

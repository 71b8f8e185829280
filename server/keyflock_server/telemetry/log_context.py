"""Which request a log line belongs to, and which round: what every line has that is logged meanwhile.

A request's id is the server's own, and is made only if a line is logged or a response shows it. A caller's
``X-Request-Id`` is a claim and is not read: it could hold anything, and name another caller's request.
"""

import asyncio
import secrets
from collections.abc import Coroutine
from contextvars import Context, ContextVar, Token
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


_CURRENT: ContextVar["RequestContext | None"] = ContextVar("keyflock_request", default=None)


class RequestContext:
    """What the lines logged during one request have in common; a ``with`` statement is the request."""

    __slots__ = ("_id", "_token", "round_id", "task")

    def __init__(self) -> None:
        self._id = ""
        self._token: Token[RequestContext | None] | None = None
        #: The ids of the round and the task that it is about; empty until they are known for certain.
        self.round_id = ""
        self.task = ""

    def __enter__(self) -> Self:
        self._token = _CURRENT.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)

    @property
    def id(self) -> str:
        """Return the request's id."""
        if not self._id:
            self._id = secrets.token_hex(6)
        return self._id


def note_round(round_id: str, task: str) -> None:
    """Say which round and task the current request is about; they were looked up, or signed by the server."""
    request = _CURRENT.get()
    if request is not None:
        request.round_id, request.task = round_id, task


def request_fields() -> dict[str, object]:
    """Return the fields of a line that is logged now; none where no request is answered."""
    request = _CURRENT.get()
    if request is None:
        return {}
    if not request.round_id:
        return {"request": request.id}
    return {"request": request.id, "round_id": request.round_id, "task": request.task}


def shared_task(work: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
    """Start work that a request has begun and others share: its lines belong to no request."""
    return asyncio.create_task(work, name=name, context=Context())

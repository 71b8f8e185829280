"""Which function answers which call of the operator API."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.operator.call import AnyCall, OperatorCall, Query

Q = TypeVar("Q", bound=Query)
B = TypeVar("B")
A = TypeVar("A")

#: A function that answers a call: with what the table says, or, for headers of its own, a whole response.
Handler = Callable[[OperatorRequest[Q, B]], Awaitable[A | Response]]
#: A function that reads the present revision of what a call is about to change.
ReadRevision = Callable[[OperatorRequest[Any, Any]], Awaitable[object]]


class Handlers:
    """The handler of each call.

    Args:
        calls: The calls.
    """

    def __init__(self, calls: Iterable[AnyCall]) -> None:
        self._names = {call.name for call in calls}
        self._by_name: dict[str, Handler[Any, Any, Any]] = {}
        self._revisions: dict[str, ReadRevision] = {}

    def add(
        self, call: OperatorCall[Q, B, A], handler: Handler[Q, B, A], *, revision: ReadRevision | None = None
    ) -> None:
        """Let ``handler`` answer this call.

        Args:
            call: The call.
            handler: The function that answers it.
            revision: Reads the present revision of what the call changes, where it takes ``If-Match``.
        """
        if call.name in self._by_name:
            raise ValueError(f"the call {call.name} has two handlers")
        if call.takes_if_match != (revision is not None):
            raise ValueError(
                f"the call {call.name} takes If-Match, or its handler reads a revision: not both"
            )
        self._by_name[call.name] = handler
        if revision is not None:
            self._revisions[call.name] = revision

    def revision_of(self, call: AnyCall) -> ReadRevision:
        """Return the function that reads the present revision of what the call changes."""
        return self._revisions[call.name]

    def of(self, call: AnyCall) -> Handler[Any, Any, Any]:
        """Return the call's handler."""
        return self._by_name[call.name]

    def require_all(self) -> None:
        """Raise ValueError unless each call has a handler, and each handler a call."""
        if self._names != self._by_name.keys():
            odd = ", ".join(sorted(self._names ^ self._by_name.keys()))
            raise ValueError(f"calls without a handler, or handlers without a call: {odd}")


class Resource(Protocol):
    """The handlers of one resource's calls."""

    def register(self, handlers: Handlers) -> None:
        """Add the resource's handlers."""
        ...

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


class Handlers:
    """The handler of each call.

    Args:
        calls: The calls.
    """

    def __init__(self, calls: Iterable[AnyCall]) -> None:
        self._names = {call.name for call in calls}
        self._by_name: dict[str, Handler[Any, Any, Any]] = {}

    def add(self, call: OperatorCall[Q, B, A], handler: Handler[Q, B, A]) -> None:
        """Let ``handler`` answer this call."""
        if call.name in self._by_name:
            raise ValueError(f"the call {call.name} has two handlers")
        self._by_name[call.name] = handler

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

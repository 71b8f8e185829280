"""Finds the call of a table that a method and a path mean, with or without sockets."""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Generic, Protocol, TypeVar
from urllib.parse import unquote

from keyflock_server.protocol.problems import ApiError, ProblemCode

_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")


class RouteSpec(Protocol):
    """A row of a table of calls, as far as routing needs it."""

    @property
    def method(self) -> str:
        """Return the HTTP method."""
        ...

    @property
    def path(self) -> str:
        """Return the path, with ``{name}`` for each path parameter."""
        ...


C = TypeVar("C", bound=RouteSpec)


class MethodNotAllowed(ApiError):
    """Fault of the client: the address exists, and takes other methods."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self.allowed = ", ".join(allowed)
        super().__init__(ProblemCode.METHOD_NOT_ALLOWED, f"This address takes {self.allowed}.")


class Routes(Generic[C]):
    """Finds the calls of one table by method and path."""

    def __init__(self, calls: Iterable[C]) -> None:
        rows = tuple(calls)
        #: The calls of each path without parameters, by method.
        self._literal: dict[str, dict[str, C]] = {}
        for call in rows:
            if _PLACEHOLDER.search(call.path) is None:
                self._literal.setdefault(call.path, {})[call.method] = call
        self._rows = tuple((_pattern(call.path), call) for call in rows)

    def match(self, method: str, path: str) -> tuple[C, dict[str, str]]:
        """Return the call, and its path parameters, percent-decoded.

        Raises:
            ApiError: fault of the client; ``not_found``, or ``method_not_allowed`` with the allowed ones.
        """
        path = path.partition("?")[0]
        literal = self._literal.get(path, {}).get(method)
        if literal is not None:
            return literal, {}
        allowed = []
        for pattern, call in self._rows:
            if found := pattern.fullmatch(path):
                if call.method == method:
                    return call, {name: unquote(part) for name, part in found.groupdict().items()}
                allowed.append(call.method)
        if allowed:
            raise MethodNotAllowed(allowed)
        raise ApiError(ProblemCode.NOT_FOUND, "No call of this protocol has this path.")


def query_string(path: str) -> str:
    """Return what follows the first question mark of a request's path, as it was sent."""
    return path.partition("?")[2]


def _pattern(template: str) -> re.Pattern[str]:
    # Every second part of the split is a placeholder's name.
    segments = _PLACEHOLDER.split(template)
    literals = [re.escape(part) if i % 2 == 0 else f"(?P<{part}>[^/]+)" for i, part in enumerate(segments)]
    return re.compile("".join(literals))

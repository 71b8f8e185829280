"""The connections of one port: how many there may be, which gives way, and what is said of those that fail.

Every accepted connection holds a file descriptor, whether or not anything comes over it. So each port has a
cap below the process's limit. Where it is reached, the connection that has waited longest for a request's
head gives way to the new one (an idle one, or one that sends its head slowly); where all are in the middle of
a request, the new one is turned away.
"""

from enum import StrEnum
from typing import Final, Protocol

from keyflock_server.http.documents import Format
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.repeats import Repeats

DEFAULT_HEADER_TIMEOUT_S: Final = 10.0
#: A model of 1.4 MB at 5 kB/s, which a phone on a poor line has.
DEFAULT_ANSWER_TIMEOUT_S: Final = 300.0
DEFAULT_MAX_CONNECTIONS: Final = 1_024
#: Connections that were turned away and may still read why; each is gone within ``LINGER_S``.
MAX_LINGERING: Final = 32
LINGER_S: Final = 1.0

_log: Final = logger("keyflock.http")


class MalformedKind(StrEnum):
    """Why a request could not be read; the closed list that metrics and the log have."""

    TLS = "tls"
    HTTP2 = "http2"
    VERSION = "version"
    REQUEST_LINE = "request_line"
    HEADERS = "headers"
    TOO_LONG = "too_long"
    FRAMING = "framing"
    SLOW_HEAD = "slow_head"


#: What is told to whoever sent it; nothing of the request is in it.
_DETAILS: Final = {
    MalformedKind.TLS: "This port speaks plain HTTP/1.1, and was spoken to in TLS.",
    MalformedKind.HTTP2: "This port speaks HTTP/1.1, and was spoken to in HTTP/2.",
    MalformedKind.VERSION: "Only HTTP/1.1 and HTTP/1.0 are read here.",
    MalformedKind.REQUEST_LINE: "The request line is none of HTTP/1.1.",
    MalformedKind.HEADERS: "The request's headers cannot be read.",
    MalformedKind.TOO_LONG: "The request line, or a header, is too long.",
    MalformedKind.FRAMING: "The body's framing cannot be read.",
    MalformedKind.SLOW_HEAD: "The request's head did not arrive in time.",
}


class CountedConnection(Protocol):
    """As much of a connection as its port must know."""

    def give_way(self) -> bool:
        """Close, unless a request is being answered; whether it does."""
        ...


class Connections:
    """Counts one port's connections, and words what is wrong with them.

    Args:
        form: How the port writes its problem documents.
        metrics: Where connections and malformed requests are counted.
        port: Whose port it is: ``phones`` or ``operators``.
        max_connections: Connections at once.
        answer_timeout_s: Time for an answer to be taken off the connection.
        header_timeout_s: Time for a request's head, from the connection or its first byte to its last.
        repeats: Says which of them are told.
    """

    def __init__(
        self,
        form: Format,
        metrics: Metrics,
        *,
        port: str,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        header_timeout_s: float = DEFAULT_HEADER_TIMEOUT_S,
        answer_timeout_s: float = DEFAULT_ANSWER_TIMEOUT_S,
        repeats: Repeats | None = None,
    ) -> None:
        self.header_timeout_s = header_timeout_s
        self.answer_timeout_s = answer_timeout_s
        self.max_connections = max_connections
        self._form = form
        self._port = port
        self._repeats = repeats or Repeats()
        self._malformed = metrics.malformed_requests
        self._open_gauge = metrics.open_connections.labels(port)
        self._turned_away = metrics.connections_closed_early.labels(port, "turned_away")
        self._displaced = metrics.connections_closed_early.labels(port, "displaced")
        self._open: set[CountedConnection] = set()
        #: Those that wait for a head, the longest first.
        self._waiting: dict[CountedConnection, None] = {}
        self._lingering = 0

    def admit(self, connection: CountedConnection) -> bool:
        """Take a new connection in, if need be in another's place; False: it must be turned away."""
        if len(self._open) >= self.max_connections and not self._displace():
            self._turned_away.inc()
            if (untold := self._repeats.untold("turned away", of=self._port)) is not None:
                _log.warning(
                    "connections are turned away: every one that may be open has a request under way",
                    port=self._port,
                    max_connections=self.max_connections,
                    repeated=untold,
                )
            return False
        self._open.add(connection)
        self._open_gauge.set(len(self._open))
        self.waits(connection)
        return True

    def waits(self, connection: CountedConnection) -> None:
        """The connection waits for a request's head from now on."""
        if connection in self._open:
            self._waiting.pop(connection, None)
            self._waiting[connection] = None

    def is_served(self, connection: CountedConnection) -> None:
        """The connection has a request under way."""
        self._waiting.pop(connection, None)

    def closed(self, connection: CountedConnection) -> None:
        """The connection is gone, or will be at once."""
        self._waiting.pop(connection, None)
        self._open.discard(connection)
        self._open_gauge.set(len(self._open))

    def may_linger(self) -> bool:
        """Keep one more that is turned away until it has read why, or say False; ``lingered`` ends it."""
        if self._lingering >= MAX_LINGERING:
            return False
        self._lingering += 1
        return True

    def lingered(self) -> None:
        """One that was turned away is gone."""
        self._lingering -= 1

    def turning_away(self) -> Response:
        """The answer to a connection beyond the cap."""
        window = ReturnWindow(min_s=5.0, max_s=30.0)
        return self._form.problem(
            Refused(ProblemCode.OVERLOADED, "Come back later: too many connections are open.", window)
        )

    def malformed(self, kind: MalformedKind) -> Response:
        """Count a request that cannot be read, tell of it once a minute, and return the answer to it."""
        self.note_malformed(kind)
        return self._form.problem(Refused(ProblemCode.MALFORMED_REQUEST, _DETAILS[kind]))

    def note_malformed(self, kind: MalformedKind) -> None:
        """Count a request that cannot be read, and tell of it once a minute."""
        self._malformed.labels(self._port, kind).inc()
        if (untold := self._repeats.untold(f"malformed {kind}", of=self._port)) is not None:
            _log.warning("a request cannot be read", port=self._port, kind=kind, repeated=untold)

    def failed(self, error: BaseException | None) -> Response:
        """The answer where the connection's own code failed; its types and places are told once a minute."""
        known = error if isinstance(error, Exception) else None
        if (untold := self._repeats.untold("connection", known, self._port)) is not None:
            _log.error("a connection failed", port=self._port, repeated=untold, exc_info=error)
        return self._form.problem(Refused(ProblemCode.INTERNAL, "The server failed to answer."))

    def _displace(self) -> bool:
        """Close the connection that has waited longest for a head."""
        for longest in tuple(self._waiting):
            self._waiting.pop(longest)
            if longest.give_way():
                self.closed(longest)
                self._displaced.inc()
                if (untold := self._repeats.untold("displaced", of=self._port)) is not None:
                    _log.warning(
                        "idle connections give way to new ones: as many are open as may be",
                        port=self._port,
                        max_connections=self.max_connections,
                        repeated=untold,
                    )
                return True
        return False

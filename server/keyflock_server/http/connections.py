"""Limits the connections of one port, and answers those that are refused or that fail.

Every accepted connection holds a file descriptor, whether or not anything comes over it. So each port has a
cap below the process's limit. When the cap is reached, the connection that has waited longest for a request's
head (an idle one, or one that sends its head slowly) is closed in favour of the new one; when all are in the
middle of a request, the new one is refused.
"""

from typing import Final, Protocol

from keyflock_server.http.responses import ResponseFormat
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.connection_failures import HandshakeFailure, MalformedKind
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.telemetry.log_throttle import LogThrottle
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

DEFAULT_HEADER_TIMEOUT_S: Final = 10.0
#: Enough for a model of 1.4 MB at 5 kB/s, the rate of a phone on a poor line.
DEFAULT_ANSWER_TIMEOUT_S: Final = 300.0
DEFAULT_MAX_CONNECTIONS: Final = 1_024
#: Maximum number of refused connections that stay open to read the reason, each for ``LINGER_S``.
MAX_LINGERING: Final = 32
LINGER_S: Final = 1.0

_log: Final = logger("keyflock.http")


#: The details of the problem documents; they quote nothing of the request.
_DETAILS: Final = {
    MalformedKind.TLS: "This port speaks plain HTTP/1.1, and was spoken to in TLS.",
    MalformedKind.HTTP2: "This port speaks HTTP/1.1, and was spoken to in HTTP/2.",
    MalformedKind.VERSION: "Only HTTP/1.1 and HTTP/1.0 are read here.",
    MalformedKind.REQUEST_LINE: "The request line is none of HTTP/1.1.",
    MalformedKind.HEADERS: "The request's headers cannot be read.",
    MalformedKind.TOO_LONG: "The request line, or a header, is too long.",
    MalformedKind.FRAMING: "The body's framing cannot be read.",
    MalformedKind.SLOW_HEAD: "The request's head did not arrive in time.",
    MalformedKind.FOREIGN_HOST: "The header Host must hold an address, localhost, or one of the names in "
    "KEYFLOCK_ADMIN_NAMES: this port is for this machine alone.",
}


class CountedConnection(Protocol):
    """A connection, as far as its port must know it."""

    def close_if_idle(self) -> bool:
        """Close unless a request is being answered, and return whether it closes."""
        ...


class Connections:
    """Counts one port's connections, and writes the responses to those that are refused or fail.

    Args:
        form: The format of the port's problem documents.
        metrics: Counts connections and malformed requests.
        port: The port's label: ``phones`` or ``operators``.
        max_connections: Maximum number of connections at once.
        answer_timeout_s: Time for the client to read a response.
        header_timeout_s: Time for a request's head, from the connection or its first byte to its last.
        log_throttle: Limits how often the same warning is logged.
    """

    def __init__(
        self,
        form: ResponseFormat,
        metrics: Metrics,
        *,
        port: str,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        header_timeout_s: float = DEFAULT_HEADER_TIMEOUT_S,
        answer_timeout_s: float = DEFAULT_ANSWER_TIMEOUT_S,
        log_throttle: LogThrottle | None = None,
    ) -> None:
        self.header_timeout_s = header_timeout_s
        self.answer_timeout_s = answer_timeout_s
        self.max_connections = max_connections
        self._form = form
        self._port = port
        self._log_throttle = log_throttle or LogThrottle()
        self._malformed = metrics.malformed_requests
        self._handshake_failures = metrics.tls_handshake_failures
        self._open_gauge = metrics.open_connections.labels(port)
        self._turned_away = metrics.connections_closed_early.labels(port, "turned_away")
        self._displaced = metrics.connections_closed_early.labels(port, "displaced")
        self._open: set[CountedConnection] = set()
        #: The connections that wait for a request's head, the longest-waiting first.
        self._waiting: dict[CountedConnection, None] = {}
        self._lingering = 0

    def admit(self, connection: CountedConnection) -> bool:
        """Count a new connection, if need be in place of an idle one; return False if it must be refused."""
        if len(self._open) >= self.max_connections and not self._displace():
            self._turned_away.inc()
            if (suppressed := self._log_throttle.suppressed_count("turned away", of=self._port)) is not None:
                _log.warning(
                    "connections are turned away: every one that may be open has a request under way",
                    port=self._port,
                    max_connections=self.max_connections,
                    repeated=suppressed,
                )
            return False
        self._open.add(connection)
        self._open_gauge.set(len(self._open))
        self.mark_waiting(connection)
        return True

    def mark_waiting(self, connection: CountedConnection) -> None:
        """Record that the connection waits for a request's head from now on."""
        if connection in self._open:
            self._waiting.pop(connection, None)
            self._waiting[connection] = None

    def mark_busy(self, connection: CountedConnection) -> None:
        """Record that the connection is handling a request."""
        self._waiting.pop(connection, None)

    def mark_closed(self, connection: CountedConnection) -> None:
        """Record that the connection is closed, or is about to be."""
        self._waiting.pop(connection, None)
        self._open.discard(connection)
        self._open_gauge.set(len(self._open))

    def try_linger(self) -> bool:
        """Let one more refused connection stay open, or return False; ``stop_lingering`` ends it."""
        if self._lingering >= MAX_LINGERING:
            return False
        self._lingering += 1
        return True

    def stop_lingering(self) -> None:
        """Record that a refused connection is closed."""
        self._lingering -= 1

    def overload_response(self) -> Response:
        """Return the response to a connection beyond the cap."""
        window = ReturnWindow(min_s=5.0, max_s=30.0)
        return self._form.problem(
            ApiError(ProblemCode.OVERLOADED, "Come back later: too many connections are open.", window)
        )

    def malformed_response(self, kind: MalformedKind) -> Response:
        """Count a request that cannot be read, log it once a minute, and return the response to it."""
        self.record_malformed(kind)
        return self._form.problem(ApiError(ProblemCode.MALFORMED_REQUEST, _DETAILS[kind]))

    def record_malformed(self, kind: MalformedKind) -> None:
        """Count a request that cannot be read, and log it once a minute."""
        self._malformed.labels(self._port, kind).inc()
        if (
            suppressed := self._log_throttle.suppressed_count(f"malformed {kind}", of=self._port)
        ) is not None:
            _log.warning("a request cannot be read", port=self._port, kind=kind, repeated=suppressed)

    def record_handshake_failure(self, kind: HandshakeFailure) -> None:
        """Count a connection whose TLS handshake failed."""
        self._handshake_failures.labels(self._port, kind).inc()

    def failure_response(self, error: BaseException | None) -> Response:
        """Log a failure of the connection's own code once a minute, and return the response to the client."""
        known = error if isinstance(error, Exception) else None
        if (suppressed := self._log_throttle.suppressed_count("connection", known, self._port)) is not None:
            _log.error("a connection failed", port=self._port, repeated=suppressed, exc_info=error)
        return self._form.problem(ApiError(ProblemCode.INTERNAL, "The server failed to answer."))

    def _displace(self) -> bool:
        """Close the connection that has waited longest for a request's head."""
        for longest in tuple(self._waiting):
            self._waiting.pop(longest)
            if longest.close_if_idle():
                self.mark_closed(longest)
                self._displaced.inc()
                if (
                    suppressed := self._log_throttle.suppressed_count("displaced", of=self._port)
                ) is not None:
                    _log.warning(
                        "idle connections give way to new ones: as many are open as may be",
                        port=self._port,
                        max_connections=self.max_connections,
                        repeated=suppressed,
                    )
                return True
        return False

"""Declared series about requests and connections."""

from typing import Final

from keyflock_server.protocol.calls import CALLS
from keyflock_server.protocol.connection_failures import HandshakeFailure, MalformedKind
from keyflock_server.protocol.operator.table import OPERATOR_CALLS
from keyflock_server.protocol.problems import ProblemCode
from keyflock_server.telemetry.series.declaration import Label, closed, counter, gauge, histogram

#: Upper bounds of the buckets of durations, in seconds; the last bucket has none.
DURATIONS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: The name under which requests for addresses that are no call's are counted.
UNROUTED: Final = "unrouted"

CALL: Final = closed(
    "call", sorted({*(call.name for call in CALLS), *(call.name for call in OPERATOR_CALLS), UNROUTED})
)
PORT: Final = closed("port", ("phones", "operators"))

REQUEST_DURATION: Final = histogram(
    "keyflock_request_duration_seconds", "From the request's head to the answer, by call.", DURATIONS_S, CALL
)
RECEIVED_BYTES: Final = counter("keyflock_received_bytes_total", "Body bytes received, by call.", CALL)
SENT_BYTES: Final = counter("keyflock_sent_bytes_total", "Body bytes sent, by call.", CALL)
PROBLEMS: Final = counter(
    "keyflock_problems_total",
    "Requests refused with a problem document, by call and code.",
    CALL,
    closed("code", ProblemCode),
)
INTERNAL_ERRORS: Final = counter(
    "keyflock_internal_errors_total",
    "Requests that failed by a fault of the server; the log has each with its incident.",
)
MODEL_DOWNLOAD: Final[Label] = closed("kind", ("whole", "delta", "not_modified"))
MODEL_DOWNLOADS: Final = counter(
    "keyflock_model_downloads_total",
    "Downloads of a model's weights: whole, delta (from one that the phone had) or not_modified.",
    MODEL_DOWNLOAD,
)
MODEL_BYTES: Final = counter("keyflock_model_bytes_total", "Body bytes of the same, by kind.", MODEL_DOWNLOAD)
MALFORMED_REQUESTS: Final = counter(
    "keyflock_malformed_requests_total",
    "Requests that could not be read, by port and by what is wrong with them.",
    PORT,
    closed("kind", MalformedKind),
)
OPEN_CONNECTIONS: Final = gauge("keyflock_open_connections", "Connections open now, by port.", PORT)
CONNECTIONS_CLOSED_EARLY: Final = counter(
    "keyflock_connections_closed_early_total",
    "Connections beyond a port's cap: turned_away, or an idle one displaced by a new one.",
    PORT,
    closed("cause", ("turned_away", "displaced")),
)
TLS_HANDSHAKE_FAILURES: Final = counter(
    "keyflock_tls_handshake_failures_total",
    "TLS handshakes that failed, by port and cause; refused is most often the certificate.",
    PORT,
    closed("kind", HandshakeFailure),
)
CERTIFICATE_EXPIRY: Final = gauge(
    "keyflock_tls_certificate_expiry_timestamp_seconds",
    "When the certificate ends that a port shows to new connections, in Unix time.",
    PORT,
)
UNUSABLE_CERTIFICATES: Final = gauge(
    "keyflock_tls_certificate_files_unusable",
    "1 while a port's certificate files hold what cannot be used, and the one before it is shown.",
    PORT,
)
STUCK_CERTIFICATES: Final = gauge(
    "keyflock_tls_certificate_files_stuck",
    "1 while the disk with a port's certificate files does not answer; the last certificate read is shown.",
    PORT,
)
AUTHENTICATION_FAILURES: Final = counter(
    "keyflock_admin_authentication_failures_total",
    "Calls without a valid token on the operators' port: delayed, or refused at once.",
    closed("outcome", ("delayed", "refused")),
)
EVENT_READERS: Final = gauge(
    "keyflock_event_readers", "Streams of live events that are open on the operators' port."
)
DAMAGED_EVENT_ROWS: Final = counter(
    "keyflock_live_event_damaged_rows_total",
    "Damaged rows of rounds and audit entries that live events leave out; the log has each once.",
)
BODIES_IN_FLIGHT: Final = gauge(
    "keyflock_bodies_in_flight", "Requests being read or answered now, by who sent them.", PORT
)
BODY_BYTES_IN_FLIGHT: Final = gauge(
    "keyflock_body_bytes_in_flight", "Body bytes held in memory now, by who sent them.", PORT
)

DECLARED: Final = (
    REQUEST_DURATION,
    RECEIVED_BYTES,
    SENT_BYTES,
    PROBLEMS,
    INTERNAL_ERRORS,
    MODEL_DOWNLOADS,
    MODEL_BYTES,
    MALFORMED_REQUESTS,
    OPEN_CONNECTIONS,
    CONNECTIONS_CLOSED_EARLY,
    TLS_HANDSHAKE_FAILURES,
    CERTIFICATE_EXPIRY,
    UNUSABLE_CERTIFICATES,
    STUCK_CERTIFICATES,
    AUTHENTICATION_FAILURES,
    EVENT_READERS,
    DAMAGED_EVENT_ROWS,
    BODIES_IN_FLIGHT,
    BODY_BYTES_IN_FLIGHT,
)

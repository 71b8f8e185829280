"""The closed lists of what can be wrong with a connection: a request on it, or its TLS handshake."""

from enum import StrEnum


class MalformedKind(StrEnum):
    """Why a request could not be read; answers, metrics and the log use this closed list."""

    TLS = "tls"
    HTTP2 = "http2"
    VERSION = "version"
    REQUEST_LINE = "request_line"
    HEADERS = "headers"
    TOO_LONG = "too_long"
    FRAMING = "framing"
    SLOW_HEAD = "slow_head"
    FOREIGN_HOST = "foreign_host"


class HandshakeFailure(StrEnum):
    """Why a TLS handshake failed; metrics use this closed list."""

    #: It was not over in time.
    TIMEOUT = "timeout"
    #: The client has closed the connection without a word, as load balancers' checks do.
    LEFT = "left"
    #: The client has spoken HTTP without TLS.
    PLAIN_HTTP = "plain_http"
    #: There is no version of TLS, or no cipher, that both speak.
    VERSION = "version"
    #: The client has refused, most often the certificate.
    REFUSED = "refused"
    MALFORMED = "malformed"

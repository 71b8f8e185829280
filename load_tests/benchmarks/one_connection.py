"""One client that sends one request after the other over a connection, plain or with TLS.

The generator of the other benchmarks speaks no TLS. What is compared here is the server's CPU time a call,
and one connection is enough for that.
"""

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyflock_load_tests.cores import cpu_s
from keyflock_load_tests.raw_http import read_head

_TIMEOUT_S: Final = 30.0
_READ_BYTES: Final = 65_536


class BenchmarkCallFailed(Exception):
    """The server did not answer a call of a benchmark well: what was measured means nothing."""


class OneConnection:
    """A connection that is open within ``with``.

    Args:
        url: The server's address.
        trust: The authorities of its certificate; None: it speaks plain HTTP.
    """

    def __init__(self, url: str, trust: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "127.0.0.1", parts.port or 80
        self._trust = trust
        self._socket: socket.socket

    def __enter__(self) -> Self:
        """Connect, with a full handshake."""
        connected = socket.create_connection(self._address, _TIMEOUT_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._trust is not None:
            connected = self._trust.wrap_socket(connected, server_hostname=self._address[0])
        self._socket = connected
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._socket.close()

    def call(self, request: bytes) -> bytes:
        """Send a request, and return the body of its answer; raises BenchmarkCallFailed for a bad one."""
        self._socket.sendall(request)
        data = b""
        while (head := read_head(data)) is None or len(data) < head.body_at + head.body_bytes:
            if not (part := self._socket.recv(_READ_BYTES)):
                raise BenchmarkCallFailed("the server has closed the connection")
            data += part
        body = data[head.body_at :]
        if head.status != 200:
            raise BenchmarkCallFailed(f"answered {head.status}: {body[:300]!r}")
        return body


@dataclass(frozen=True, slots=True)
class LoopCost:
    """What one closed loop of calls took."""

    per_s: float
    #: The server's CPU time a call.
    cpu_ms: float


def measure_loop(call: Callable[[], None], pid: int, seconds: float) -> LoopCost:
    """Make calls one after the other for so long, and return what they took of the process."""
    call()  # what only the first one needs is not measured
    count, spent_s, began_s = 0, -cpu_s(pid), time.perf_counter()
    while (took_s := time.perf_counter() - began_s) < seconds:
        call()
        count += 1
    spent_s += cpu_s(pid)
    return LoopCost(count / took_s, 1e3 * spent_s / max(1, count))


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for the loopback address that is its own authority, and its key."""
    key, now = generate_private_key(SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "server.pem", folder / "server.key"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].touch(mode=0o600)
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files

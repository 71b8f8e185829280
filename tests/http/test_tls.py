"""A port that speaks TLS: who connects and how, a certificate that is renewed, and who says no word."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tests.services.certificates import Authority

from keyflock_server.http.application import Application, application
from keyflock_server.http.bodies import BodyLimits
from keyflock_server.http.connections import Connections
from keyflock_server.http.responses import MSGPACK
from keyflock_server.runtime.certificates import Reload, ServerCertificate
from keyflock_server.runtime.heartbeat import Heartbeat
from keyflock_server.runtime.listeners import Listener
from keyflock_server.runtime.probes import Probes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.http.conftest import SdkPort

HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def nothing() -> None:
    """A heart that has nothing to do."""


@dataclass
class TlsPort:
    """A port with a certificate, and what its clients need."""

    authority: Authority
    folder: Path
    certificate: ServerCertificate
    listener: Listener
    sdk_port: SdkPort

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority.file)

    async def connect(
        self, context: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect and make a handshake."""
        host, port = self.address
        return await asyncio.open_connection(host, port, ssl=context or self.trust())

    async def connect_without_a_word(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect and make no handshake."""
        return await asyncio.open_connection(*self.address)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.listener.url.removeprefix("https://").rpartition(":")
        return host, int(port)

    def figure(self, name: str, **labels: str) -> float:
        found = self.sdk_port.metrics.registry.get_sample_value(
            f"keyflock_{name}", {"port": "phones", **labels}
        )
        return found or 0.0

    async def settled(self, name: str, value: float, **labels: str) -> None:
        """The server has counted so many."""
        async with asyncio.timeout(60.0):
            while self.figure(name, **labels) != value:  # noqa: ASYNC110 - the other side runs in this loop
                await asyncio.sleep(0)

    def renew(self) -> bytes:
        """Write another certificate, let the port take it up, and return it in DER form."""
        files = self.authority.issue(self.folder)
        for path in (files.certificate, files.key):
            os.utime(path, (2e9, 2e9))
        assert [self.certificate.reload(), self.certificate.reload()] == [Reload.UNCHANGED, Reload.LOADED]
        return ssl.PEM_cert_to_DER_cert(files.certificate.read_text())


@pytest.fixture
async def port(request: pytest.FixtureRequest, sdk_port: SdkPort, tmp_path: Path) -> AsyncIterator[TlsPort]:
    options = {"max_connections": 3, "header_timeout_s": 30.0, **getattr(request, "param", {})}
    connections = Connections(MSGPACK, sdk_port.metrics, port="phones", **options)
    probes = Probes(sdk_port.readiness, Heartbeat(nothing, 1.0, sdk_port.metrics), sdk_port.metrics)
    limits = BodyLimits(100, 10**8, 30.0, sdk_port.metrics)
    served: Application = application(
        sdk_port.endpoints, limits, probes.by_path(with_metrics=False), connections
    )
    authority = Authority.in_folder(tmp_path)
    certificate = ServerCertificate(authority.issue(tmp_path))
    listener = await Listener.open(served, "127.0.0.1", 0, shutdown_grace_s=1.0, certificate=certificate)
    yield TlsPort(authority, tmp_path, certificate, listener, sdk_port)
    await listener.close()


async def healthz(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Ask for the health on a connection, and return the status line."""
    writer.write(HEALTHZ)
    async with asyncio.timeout(60.0):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
    return head.partition(b"\r\n")[0]


def shown(writer: asyncio.StreamWriter) -> bytes:
    """Return the certificate that the server has shown, in DER form."""
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return certificate


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes until the server ends the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(60.0):
            while more := await reader.read(65_536):
                received += more
    return received


async def test_who_trusts_the_authority_is_answered(port: TlsPort) -> None:
    connection = await port.connect()

    assert port.listener.url.startswith("https://127.0.0.1:")
    assert await healthz(*connection) == b"HTTP/1.1 200 OK"
    assert await healthz(*connection) == b"HTTP/1.1 200 OK"
    connection[1].close()


async def test_who_does_not_trust_the_authority_hangs_up_and_is_counted(port: TlsPort) -> None:
    def connect_like_a_program_without_an_event_loop() -> None:
        with socket.create_connection(port.address) as sock, pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(sock, server_hostname="127.0.0.1")

    await asyncio.to_thread(connect_like_a_program_without_an_event_loop)

    await port.settled("tls_handshake_failures_total", 1.0, kind="refused")
    assert port.figure("open_connections") == 0.0


@pytest.mark.parametrize(("newest", "is_served"), [("TLSv1_2", True), ("TLSv1_3", True), ("TLSv1_1", False)])
async def test_the_oldest_version_is_tls_1_2(port: TlsPort, newest: str, is_served: bool) -> None:
    context = port.trust()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this test is about the old versions
        context.maximum_version = ssl.TLSVersion[newest]

    if is_served:
        connection = await port.connect(context)
        assert await healthz(*connection) == b"HTTP/1.1 200 OK"
        connection[1].close()
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await port.connect(context)
        await port.settled("tls_handshake_failures_total", 1.0, kind="version")


async def test_a_renewed_certificate_is_shown_to_new_connections_and_open_ones_go_on(port: TlsPort) -> None:
    before = await port.connect()
    first = shown(before[1])

    second = port.renew()
    after = await port.connect()

    assert shown(after[1]) == second != first
    assert await healthz(*before) == await healthz(*after) == b"HTTP/1.1 200 OK"
    for _, writer in (before, after):
        writer.close()


async def test_what_is_sent_together_with_the_handshakes_end_is_read(port: TlsPort) -> None:
    reader, writer = await port.connect_without_a_word()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = port.trust().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")

    while True:
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
            break
        writer.write(outgoing.read())
        incoming.write(await reader.read(65_536))
    client.write(HEALTHZ)
    writer.write(outgoing.read())  # the handshake's last message and the request, in one piece
    answer = b""
    async with asyncio.timeout(60.0):
        while not answer:
            incoming.write(await reader.read(65_536))
            with contextlib.suppress(ssl.SSLWantReadError):
                answer = client.read(65_536)

    assert answer.startswith(b"HTTP/1.1 200 OK")
    writer.close()


@pytest.mark.parametrize("port", [{"header_timeout_s": 0.05}], indirect=True)
async def test_who_makes_no_handshake_in_time_is_hung_up_on(port: TlsPort) -> None:
    reader, writer = await port.connect_without_a_word()
    writer.write(b"\x16\x03\x01")

    assert await rest(reader) == b""
    await port.settled("tls_handshake_failures_total", 1.0, kind="timeout")
    assert port.figure("open_connections") == 0.0
    writer.close()


async def test_at_the_cap_who_has_made_no_handshake_gives_way(port: TlsPort) -> None:
    silent = []
    for number in range(3):
        silent.append(await port.connect_without_a_word())
        await port.settled("open_connections", number + 1)

    connection = await port.connect()

    assert await healthz(*connection) == b"HTTP/1.1 200 OK"
    assert await rest(silent[0][0]) == b""
    assert port.figure("open_connections") == 3.0
    assert port.figure("connections_closed_early_total", cause="displaced") == 1.0
    for _, writer in (*silent, connection):
        writer.close()


async def test_an_idle_connection_that_gives_way_is_closed_at_once(port: TlsPort) -> None:
    """A client that answers no farewell would keep the server's side open for half a minute."""
    idle, first, second = [await port.connect() for _ in range(3)]
    for one in (idle, first, second):
        await healthz(*one)
    transport = idle[1].transport
    transport.pause_reading()  # type: ignore[attr-defined] # it reads, as each transport of a stream

    third = await port.connect()

    assert await healthz(*third) == b"HTTP/1.1 200 OK"
    assert port.figure("open_connections") == 3.0
    transport.resume_reading()  # type: ignore[attr-defined] # as above
    assert await rest(idle[0]) == b""
    for _, writer in (idle, first, second, third):
        writer.close()


async def test_who_speaks_http_without_tls_is_counted_by_that(port: TlsPort) -> None:
    reader, writer = await port.connect_without_a_word()
    writer.write(HEALTHZ)

    assert b"HTTP" not in await rest(reader)
    await port.settled("tls_handshake_failures_total", 1.0, kind="plain_http")
    writer.close()


async def test_who_leaves_before_the_handshake_is_forgotten(port: TlsPort) -> None:
    _, writer = await port.connect_without_a_word()
    await port.settled("open_connections", 1.0)

    writer.close()

    await port.settled("tls_handshake_failures_total", 1.0, kind="left")
    assert port.figure("open_connections") == 0.0


async def test_a_port_that_closes_ends_handshakes_under_way(port: TlsPort) -> None:
    reader, writer = await port.connect_without_a_word()
    await port.settled("open_connections", 1.0)

    async with asyncio.timeout(60.0):
        await port.listener.close()

    assert await rest(reader) == b""
    with pytest.raises(ConnectionRefusedError):
        await port.connect_without_a_word()
    writer.close()

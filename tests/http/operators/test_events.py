"""Live events over a real socket: replay, gaps, readers that are slow or leave, and the end of the server."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import pytest
from tests.http.operators.conftest import NOW

from keyflock_server.audit.context import AuditContext
from keyflock_server.identity.operators import ROOT
from keyflock_server.live_events.stream import GREETING
from keyflock_server.live_events.stream_tokens import StreamTokenWatch
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator.events import EVENTS, EventKind, LiveEvent
from keyflock_server.protocol.operator.tokens import TokenOrder
from keyflock_server.protocol.roles import Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp
    from tests.http.operators.conftest import AdminPort

EN = PopulationName("en-US")


@pytest.fixture(autouse=True)
def lasting_streams(admin_port: AdminPort) -> None:
    admin_port.events.max_stream_s = 3_600.0


@asynccontextmanager
async def stream(port: AdminPort, query: str = "", **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """Connect, and read the greeting."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers = {"Authorization": f"Bearer {port.token}"} | headers
    async with port.session.get(port.url + EVENTS.path + query, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert await response.content.readuntil(b"\n\n") == GREETING
        yield response


async def new_token(port: AdminPort, name: str) -> str:
    """Create a viewer's token, and return its text."""
    order = TokenOrder(name=name, role=Role.VIEWER, reason="A test.")
    audit = AuditContext(operator="root", role="admin", reason="A test.", action="token.test", at=NOW)
    return (await port.tokens.create(order, ROOT, audit=audit)).text


def publish(port: AdminPort, round_id: str) -> None:
    port.events.publish(LiveEvent(kind=EventKind.ROUND_OPENED, at=NOW, round=round_id), EN)


async def next_event(response: aiohttp.ClientResponse) -> tuple[str, str, str]:
    """Return the id, the kind and the round of the next event."""
    block = (await response.content.readuntil(b"\n\n")).decode()
    fields = dict(line.split(": ", 1) for line in block.strip().splitlines())
    return fields["id"], fields["event"], msgspec.json.decode(fields["data"], type=LiveEvent).round


async def until(is_so: object) -> None:
    while not is_so():  # type: ignore[operator]  # noqa: ASYNC110 - a predicate, which sets no event
        await asyncio.sleep(0)


async def test_events_are_streamed_as_they_happen(admin_port: AdminPort) -> None:
    async with stream(admin_port) as response:
        publish(admin_port, "t-1")
        first = await next_event(response)
        publish(admin_port, "t-2")
        second = await next_event(response)
        headers = response.headers

    assert (first, second) == (("process-1", "round_opened", "t-1"), ("process-2", "round_opened", "t-2"))
    assert headers["Content-Type"] == "text/event-stream"
    assert (headers["Cache-Control"], headers["Server"]) == ("no-store", "keyflock")
    assert headers["Connection"] == "close"


async def test_a_reader_that_comes_back_gets_what_it_has_missed(admin_port: AdminPort) -> None:
    async with stream(admin_port) as response:
        publish(admin_port, "t-1")
        last, _, _ = await next_event(response)
    publish(admin_port, "t-2")
    publish(admin_port, "t-3")

    async with stream(admin_port, Last_Event_ID=last) as response:
        missed = [await next_event(response), await next_event(response)]

    assert [one for _, _, one in missed] == ["t-2", "t-3"]


async def test_a_reader_that_comes_back_from_another_process_is_told_of_the_gap(
    admin_port: AdminPort,
) -> None:
    publish(admin_port, "t-1")

    async with stream(admin_port, Last_Event_ID="another-7") as response:
        first = await next_event(response)
        publish(admin_port, "t-2")
        second = await next_event(response)

    assert (first, second[2]) == (("process-1", "gap", ""), "t-2")


async def test_events_of_one_population_are_asked_for_by_its_name(admin_port: AdminPort) -> None:
    async with stream(admin_port, "?population=en-US") as response:
        admin_port.events.publish(
            LiveEvent(kind=EventKind.ROUND_OPENED, at=NOW, round="x"), PopulationName("de")
        )
        publish(admin_port, "t-1")
        told = await next_event(response)
    unknown = await admin_port.request(
        "GET", EVENTS.path + "?population=fr", headers={"Authorization": f"Bearer {admin_port.token}"}
    )

    assert told[2] == "t-1"
    assert (unknown.status, unknown.code()) == (404, "population_unknown")


async def test_a_reader_that_leaves_makes_room(admin_port: AdminPort) -> None:
    admin_port.events.heartbeat_s = 0.01
    async with stream(admin_port):
        connected = admin_port.events.reader_count

    await until(lambda: admin_port.events.reader_count == 0)

    assert connected == 1


async def test_one_reader_too_many_is_sent_away_with_a_time_to_return(admin_port: AdminPort) -> None:
    admin_port.events._max_readers = 1
    async with stream(admin_port):
        refused = await admin_port.send(EVENTS)

    assert (refused.status, refused.code()) == (503, "overloaded")
    assert int(refused.headers["Retry-After"]) > 0


async def test_a_fifth_stream_of_one_token_is_refused_and_one_of_another_token_is_not(
    admin_port: AdminPort,
) -> None:
    alice, bob = [await new_token(admin_port, name) for name in ("alice", "bob")]
    async with AsyncExitStack() as streams:
        for _ in range(4):
            await streams.enter_async_context(stream(admin_port, Authorization=f"Bearer {alice}"))
        refused = await admin_port.send(EVENTS, Authorization=f"Bearer {alice}")
        await streams.enter_async_context(stream(admin_port, Authorization=f"Bearer {bob}"))

    assert (refused.status, refused.code()) == (429, "too_many_requests")
    assert int(refused.headers["Retry-After"]) > 0


async def test_a_stream_ends_with_the_pass_after_its_token_was_revoked(admin_port: AdminPort) -> None:
    text = await new_token(admin_port, "alice")
    watch = StreamTokenWatch(admin_port.events, admin_port.tokens)
    async with stream(admin_port, Authorization=f"Bearer {text}") as response:
        path = f"/admin/v1/tokens/{text.split('_')[1]}/revoke"
        headers = {"Authorization": f"Bearer {admin_port.token}", "Content-Type": "application/json"}
        revoked = await admin_port.request("POST", path, b'{"reason": "lost"}', headers)
        await watch.tick()
        rest = await response.content.read()

    assert revoked.status == 200
    assert rest == b""


async def test_a_reader_that_does_not_read_is_dropped_and_the_others_go_on(admin_port: AdminPort) -> None:
    """The sockets' buffers hold some megabytes; what the server itself holds stays as it is."""
    address = urlsplit(admin_port.url)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(deaf, (address.hostname, address.port))
        request = f"GET {EVENTS.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin_port.token}\r\n\r\n"
        await loop.sock_sendall(deaf, request.encode())
        await until(lambda: admin_port.events.reader_count == 1)
        async with stream(admin_port) as response:
            told = 0
            while admin_port.events.reader_count == 2:
                publish(admin_port, "x" * 1_000)
                told += 1
                await next_event(response)
            publish(admin_port, "last")
            last = await next_event(response)

    assert last[2] == "last"
    assert admin_port.events.newest == told + 1


async def test_a_server_that_stops_ends_the_streams_at_once(admin_port: AdminPort) -> None:
    async with stream(admin_port) as response:
        admin_port.events.close()
        rest = await response.content.read()

    assert rest == b""


async def test_http_1_0_gets_the_same_stream_without_chunks(admin_port: AdminPort) -> None:
    address = urlsplit(admin_port.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"GET {EVENTS.path} HTTP/1.0\r\nAuthorization: Bearer {admin_port.token}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    greeting = await reader.readuntil(b"\n\n")
    admin_port.events.close()
    rest = await reader.read()
    writer.close()

    assert b"chunked" not in head.lower()
    assert (greeting, rest) == (GREETING, b"")

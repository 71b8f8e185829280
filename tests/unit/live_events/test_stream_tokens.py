"""A stream of live events ends with the token that opened it, and other streams go on."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from tests.memory_store.store import MemoryStore

from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.operator_tokens import OperatorTokens
from keyflock_server.identity.api_tokens import ApiTokens
from keyflock_server.identity.operators import ROOT
from keyflock_server.live_events.hub import EventHub
from keyflock_server.live_events.stream_tokens import StreamTokenWatch
from keyflock_server.protocol.operator.events import EventKind, LiveEvent
from keyflock_server.protocol.operator.tokens import TokenOrder
from keyflock_server.protocol.roles import Role
from keyflock_server.storage.errors import StorageUnavailable

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
AUDIT = AuditContext(operator="root", role="admin", reason="A test.", action="token.test", at=NOW)


class StreamingProcess:
    """A process with streams, beside another one, over one store and on a clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.store = MemoryStore()
        self.here, self.elsewhere = (
            OperatorTokens(self.store.api_tokens, ApiTokens(b"k" * 32), self.now, lambda: self.now_s)
            for _ in range(2)
        )
        self.hub = EventHub("process", self.now)
        self.watch = StreamTokenWatch(self.hub, self.here)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.now_s)

    async def token(self, name: str, lifetime_s: float | None = None) -> str:
        order = TokenOrder(name=name, role=Role.VIEWER, lifetime_s=lifetime_s, reason="A test.")
        return (await self.here.create(order, ROOT, audit=AUDIT)).token.id

    async def stream(self, token_id: str) -> AsyncIterator[bytes]:
        """Open a stream, and read its greeting."""
        blocks = self.hub.reader(token_id=token_id).blocks()
        await anext(blocks)
        return blocks


@pytest.fixture
def process() -> StreamingProcess:
    return StreamingProcess()


async def test_a_token_that_is_revoked_here_takes_its_streams_along_with_the_next_pass(
    process: StreamingProcess,
) -> None:
    bad, good = await process.token("bad"), await process.token("good")
    streams = [await process.stream(one) for one in (bad, bad, good, ROOT.token_id)]
    waiting = asyncio.ensure_future(anext(streams[0], b"the end"))
    await process.watch.tick()
    before = process.hub.reader_count

    await process.here.revoke(bad, audit=AUDIT)
    await process.watch.tick()
    process.hub.publish(LiveEvent(kind=EventKind.ROUND_OPENED, at=NOW))

    assert (before, process.hub.reader_count) == (4, 2)
    assert await waiting == await anext(streams[1], b"the end") == b"the end"
    assert [b"round_opened" in await anext(one) for one in streams[2:]] == [True, True]


async def test_a_token_that_is_revoked_elsewhere_ends_its_streams_when_it_is_read_again(
    process: StreamingProcess,
) -> None:
    token = await process.token("ci")
    stream = await process.stream(token)
    await process.watch.tick()

    await process.elsewhere.revoke(token, audit=AUDIT)
    process.now_s = 2.0
    await process.watch.tick()

    assert await anext(stream, b"the end") == b"the end"


async def test_a_token_that_expires_ends_its_streams(process: StreamingProcess) -> None:
    stream = await process.stream(await process.token("ci", lifetime_s=60.0))
    process.now_s = 59.0
    await process.watch.tick()
    before = process.hub.reader_count

    process.now_s = 60.0
    await process.watch.tick()

    assert before == 1
    assert await anext(stream, b"the end") == b"the end"


async def test_streams_go_on_while_the_store_is_away(
    process: StreamingProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await process.stream(await process.token("ci"))

    async def fail(_: str) -> None:
        raise StorageUnavailable("away")

    monkeypatch.setattr(process.store.api_tokens, "get", fail)
    with pytest.raises(StorageUnavailable):
        await process.watch.tick()

    assert process.hub.reader_count == 1

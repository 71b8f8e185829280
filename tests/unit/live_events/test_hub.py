"""The hub hands each event to each reader that wants it, in order, and says so where some were lost."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import msgspec
import pytest

from keyflock_server.live_events.hub import EventHub
from keyflock_server.live_events.stream import GREETING, HEARTBEAT
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator.events import EventKind, LiveEvent
from keyflock_server.protocol.problems import ApiError, ProblemCode

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EN, DE = PopulationName("en"), PopulationName("de")


def hub(**options: float) -> EventHub:
    return EventHub("0123456789", lambda: NOW, **options)  # type: ignore[arg-type]  # numbers by their names


def publish(to: EventHub, *rounds: str, population: PopulationName | None = EN) -> None:
    for one in rounds:
        to.publish(LiveEvent(kind=EventKind.ROUND_OPENED, at=NOW, round=one), population)


def told(block: bytes) -> list[tuple[str, str, str]]:
    """Return the id, the kind and the round of each event in a block."""
    events = []
    for one in block.decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in one.splitlines())
        if "data" in fields:
            data = msgspec.json.decode(fields["data"], type=LiveEvent)
            assert data.kind == fields["event"]
            events.append((fields["id"], fields["event"], data.round))
    return events


async def opened(blocks: AsyncGenerator[bytes]) -> bytes:
    """Connect, and return the first block."""
    return await anext(blocks)


async def test_an_event_is_written_in_the_format_of_server_sent_events() -> None:
    events = hub()
    blocks = events.reader().blocks()
    await opened(blocks)

    publish(events, "t-1")

    assert await anext(blocks) == (
        b"id: 01234567-1\nevent: round_opened\n"
        b'data: {"kind":"round_opened","at":"2026-03-01T12:00:00Z","round":"t-1"}\n\n'
    )


async def test_a_new_reader_gets_what_happens_from_now_on() -> None:
    events = hub()
    publish(events, "t-1")
    blocks = events.reader().blocks()
    greeting = await opened(blocks)

    publish(events, "t-2", "t-3")

    assert greeting == GREETING
    assert told(await anext(blocks)) == [
        ("01234567-2", "round_opened", "t-2"),
        ("01234567-3", "round_opened", "t-3"),
    ]


async def test_a_reader_that_comes_back_gets_what_it_has_missed() -> None:
    events = hub()
    publish(events, "t-1", "t-2", "t-3")
    blocks = events.reader("01234567-1").blocks()

    assert await opened(blocks) == GREETING
    assert [one for _, _, one in told(await anext(blocks))] == ["t-2", "t-3"]


@pytest.mark.parametrize(
    "last_id",
    ["01234567-1", "01234567-99", "another1-5", "01234567-", "01234567-x", "5", "-", "01234567-" + "9" * 30],
)
async def test_an_id_after_which_events_may_be_lost_is_answered_with_a_gap(last_id: str) -> None:
    events = hub(max_events=4)
    publish(events, "t-1", "t-2", "t-3", "t-4", "t-5", "t-6")
    blocks = events.reader(last_id).blocks()
    first = told(await opened(blocks))

    publish(events, "t-7")

    assert first == [("01234567-6", "gap", "")]
    assert [one for _, _, one in told(await anext(blocks))] == ["t-7"]


async def test_the_oldest_event_that_is_still_there_can_be_had() -> None:
    events = hub(max_events=4)
    publish(events, "t-1", "t-2", "t-3", "t-4", "t-5", "t-6")
    blocks = events.reader("01234567-2").blocks()

    assert await opened(blocks) == GREETING
    assert [one for _, _, one in told(await anext(blocks))] == ["t-3", "t-4", "t-5", "t-6"]


async def test_a_reader_of_one_population_gets_its_events_and_those_that_concern_all() -> None:
    events = hub()
    blocks = events.reader(population=DE).blocks()
    await opened(blocks)

    publish(events, "en-1")
    publish(events, "de-1", population=DE)
    publish(events, "all", population=None)

    assert [one for _, _, one in told(await anext(blocks))] == ["de-1", "all"]


async def test_a_slow_reader_is_dropped_and_goes_on_where_it_was() -> None:
    events = hub(max_lag=3)
    slow, fast = events.reader().blocks(), events.reader().blocks()
    await opened(slow)
    await opened(fast)

    for number in range(1, 6):
        publish(events, f"t-{number}")
        await anext(fast)
    connected = events.reader_count
    last = told(await anext(slow))
    with pytest.raises(StopAsyncIteration):
        await anext(slow)
    again = events.reader(last[0][0]).blocks()
    await opened(again)

    assert connected == 1
    assert last == [("01234567-0", "dropped", "")]
    assert [one for _, _, one in told(await anext(again))] == ["t-1", "t-2", "t-3", "t-4", "t-5"]


async def test_there_are_only_so_many_readers_and_one_that_leaves_makes_room() -> None:
    events = hub(max_readers=1)
    first = events.reader().blocks()
    await opened(first)

    with pytest.raises(ApiError) as refused:
        events.reader()
    await first.aclose()

    assert refused.value.code is ProblemCode.OVERLOADED
    assert refused.value.retry is not None
    assert await opened(events.reader().blocks()) == GREETING


async def test_one_token_has_four_readers_at_most_and_shuts_no_other_one_out() -> None:
    events = hub()
    mine = [events.reader(token_id="mine").blocks() for _ in range(4)]
    for one in mine:
        await opened(one)

    with pytest.raises(ApiError) as refused:
        events.reader(token_id="mine")
    other = events.reader(token_id="other").blocks()

    assert await opened(other) == GREETING
    assert refused.value.code is ProblemCode.TOO_MANY_REQUESTS
    assert "4 streams" in refused.value.detail
    assert refused.value.document().retry is not None
    await mine[0].aclose()
    assert await opened(events.reader(token_id="mine").blocks()) == GREETING


async def test_a_reader_that_never_connects_takes_no_place() -> None:
    events = hub(max_readers=1)

    events.reader().blocks()

    assert events.reader_count == 0


async def test_where_nothing_happens_heartbeats_are_sent() -> None:
    events = hub(heartbeat_s=0.0)
    blocks = events.reader().blocks()
    await opened(blocks)

    assert [await anext(blocks), await anext(blocks)] == [HEARTBEAT, HEARTBEAT]


async def test_a_closed_hub_ends_all_streams_at_once() -> None:
    events = hub()
    blocks = events.reader().blocks()
    await opened(blocks)
    waiting = asyncio.create_task(anext(blocks, b"the end"))
    await asyncio.sleep(0)

    events.close()

    assert await waiting == b"the end"
    assert events.reader_count == 0


async def test_a_stream_ends_after_a_while_and_its_reader_connects_again() -> None:
    events = hub(max_stream_s=0.0)

    assert [one async for one in events.reader().blocks()] == [GREETING]

"""The hub holds the last live events of this process, and hands them to readers at their own pace.

All readers share one ring of encoded events, and each has a position in it, so that a reader costs the same
however slow it is. A reader that falls too far behind is dropped: it is told to come back, and continues from
its last event while the ring still has it.

An event's id is this process's name and a number. An id of another process, or of events that the ring has no
more, is answered with a ``gap``.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from keyflock_server.live_events.stream import GREETING, HEARTBEAT, event_block
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.operator.events import EventKind, LiveEvent
from keyflock_server.protocol.problems import ApiError, ProblemCode

MAX_EVENTS: Final = 1_024
MAX_READERS: Final = 16
#: A reader that is so many events behind is dropped.
MAX_LAG: Final = 256
HEARTBEAT_S: Final = 15.0
#: Maximum number of readers with one token.
MAX_READERS_PER_TOKEN: Final = 4
#: A stream ends after this time, and its reader connects again.
MAX_STREAM_S: Final = 900.0
#: Events that are written at once.
_MAX_BATCH: Final = 64
_PROCESS_CHARACTERS: Final = 8
#: When a reader for which there was no room may come back.
_RETURN: Final = ReturnWindow(min_s=5.0, max_s=30.0)


@dataclass(frozen=True, slots=True)
class _Entry:
    number: int
    #: The population's id; None for what concerns all.
    population: PopulationName | None
    block: bytes


class EventHub:
    """Holds the last events, and hands them to readers.

    Args:
        process: This process's name among all that ever ran, from which ids are made.
        clock: Returns the current instant, aware UTC.
        max_events: How many events are held.
        max_readers: How many readers there may be at once.
        max_readers_per_token: How many of them one token may have.
        max_lag: How many events a reader may be behind.
        heartbeat_s: The time without an event after which a heartbeat is sent.
        max_stream_s: The longest time for which a reader stays connected.
    """

    def __init__(
        self,
        process: str,
        clock: Callable[[], datetime],
        *,
        max_events: int = MAX_EVENTS,
        max_readers: int = MAX_READERS,
        max_readers_per_token: int = MAX_READERS_PER_TOKEN,
        max_lag: int = MAX_LAG,
        heartbeat_s: float = HEARTBEAT_S,
        max_stream_s: float = MAX_STREAM_S,
    ) -> None:
        self.heartbeat_s = heartbeat_s
        self.max_stream_s = max_stream_s
        self.clock = clock
        self._process = process[:_PROCESS_CHARACTERS]
        self._entries: deque[_Entry] = deque(maxlen=max_events)
        #: The number of the newest event.
        self.newest = 0
        self._max_readers = max_readers
        self._max_readers_per_token = max_readers_per_token
        self._max_lag = max_lag
        self._readers: set[EventReader] = set()
        self.is_closed = False

    @property
    def reader_count(self) -> int:
        """Return how many readers are connected."""
        return len(self._readers)

    @property
    def token_ids(self) -> frozenset[str]:
        """Return the ids of the tokens with which readers have connected."""
        return frozenset(reader.token_id for reader in self._readers)

    def publish(self, event: LiveEvent, population: PopulationName | None = None) -> None:
        """Hand an event to all readers.

        Args:
            event: The event.
            population: The id of its population, by which readers filter; None: it concerns all.
        """
        self.newest += 1
        self._entries.append(_Entry(self.newest, population, event_block(event, self.id_of(self.newest))))
        for reader in tuple(self._readers):
            if self.newest - reader.position > self._max_lag:
                self.drop(reader)
            reader.wake()

    def id_of(self, number: int) -> str:
        """Return the id of the event of this number."""
        return f"{self._process}-{number}"

    def reader(
        self, last_id: str = "", population: PopulationName | None = None, token_id: str = ""
    ) -> "EventReader":
        """Return a reader of the events after ``last_id``; it connects when it is first read.

        Args:
            last_id: The id of the last event that it has seen; empty: of those from now on.
            population: The id of the population whose events it wants; None: those of all.
            token_id: The id of the token that it has shown.
        Raises:
            ApiError: fault of the server; ``overloaded`` when there are as many readers as may be. Fault of
                the client; ``too_many_requests`` when its token has as many as one may.
        """
        mine = sum(reader.token_id == token_id for reader in self._readers)
        if mine >= self._max_readers_per_token:
            detail = f"This token has {mine} streams of live events open, as many as one may; close one."
            raise ApiError(ProblemCode.TOO_MANY_REQUESTS, detail, _RETURN)
        if len(self._readers) >= self._max_readers:
            detail = f"{self._max_readers} readers of live events are connected, as many as may be."
            raise ApiError(ProblemCode.OVERLOADED, detail, _RETURN)
        number = self._number_in(last_id) if last_id else self.newest
        position = self.newest if number is None else number
        return EventReader(self, population, position, has_gap=number is None, token_id=token_id)

    def _number_in(self, last_id: str) -> int | None:
        """Return the number in the id of an event after which none was lost; None for any other id."""
        process, _, number = last_id.rpartition("-")
        if process != self._process or not (number.isascii() and number.isdigit() and len(number) <= 18):
            return None
        oldest = self._entries[0].number if self._entries else self.newest + 1
        return int(number) if oldest - 1 <= int(number) <= self.newest else None

    def after(self, position: int) -> list[_Entry]:
        """Return the next events after this number, as many as are written at once."""
        if not self._entries:
            return []
        begin = max(0, position + 1 - self._entries[0].number)
        return [self._entries[at] for at in range(begin, min(begin + _MAX_BATCH, len(self._entries)))]

    def connect(self, reader: "EventReader") -> None:
        """Count a reader, and wake it when there is something for it."""
        self._readers.add(reader)

    def disconnect(self, reader: "EventReader") -> None:
        """Forget a reader."""
        self._readers.discard(reader)

    def drop(self, reader: "EventReader") -> None:
        """Cut off a reader; its place is free at once, even if it does not read any more."""
        reader.is_dropped = True
        self.disconnect(reader)

    def end_streams_of(self, token_id: str) -> None:
        """End the streams that were opened with this token; their places are free at once."""
        for reader in [reader for reader in self._readers if reader.token_id == token_id]:
            reader.is_ended = True
            self.disconnect(reader)
            reader.wake()

    def close(self) -> None:
        """End all streams."""
        self.is_closed = True
        for reader in self._readers:
            reader.wake()


class EventReader:
    """One reader, at its own position in the hub's ring.

    Args:
        hub: The hub.
        population: The population whose events it wants; None: those of all.
        position: The number of the last event that it has, or that it does not want.
        has_gap: Whether events before were lost to it.
        token_id: The id of the token that it has shown.
    """

    def __init__(
        self, hub: EventHub, population: PopulationName | None, position: int, has_gap: bool, token_id: str
    ) -> None:
        self._hub = hub
        self._population = population
        self.position = position
        self._has_gap = has_gap
        self.token_id = token_id
        self.is_dropped = False
        #: Whether the stream ends because its token is void.
        self.is_ended = False
        self._something = asyncio.Event()

    def wake(self) -> None:
        """Say that there is an event, or that the stream ends."""
        self._something.set()

    async def blocks(self) -> AsyncGenerator[bytes]:
        """Yield what is to be written, until the stream ends."""
        self._hub.connect(self)
        loop = asyncio.get_running_loop()
        ends_at_s = loop.time() + self._hub.max_stream_s
        try:
            yield GREETING + (self._notice(EventKind.GAP) if self._has_gap else b"")
            while not (self._hub.is_closed or self.is_ended) and loop.time() < ends_at_s:
                if self.is_dropped:
                    yield self._notice(EventKind.DROPPED)
                    return
                if blocks := self._next_blocks():
                    yield blocks
                elif not await self._has_more(self._hub.heartbeat_s):
                    yield HEARTBEAT
        finally:
            self._hub.disconnect(self)

    def _next_blocks(self) -> bytes:
        """Return the wanted ones among the next events; empty if there are no more events."""
        while entries := self._hub.after(self.position):
            self.position = entries[-1].number
            wanted = [one.block for one in entries if self._wants(one.population)]
            if wanted:
                return b"".join(wanted)
        return b""

    def _wants(self, population: PopulationName | None) -> bool:
        return self._population is None or population in {None, self._population}

    async def _has_more(self, within_s: float) -> bool:
        self._something.clear()
        try:
            async with asyncio.timeout(within_s):
                await self._something.wait()
        except TimeoutError:
            return False
        return True

    def _notice(self, kind: EventKind) -> bytes:
        event = LiveEvent(kind=kind, at=self._hub.clock(), is_of_this_process=True)
        return event_block(event, self._hub.id_of(self.position))

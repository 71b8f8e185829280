"""Several things that start, beat and stop together."""

from collections.abc import Sequence
from typing import Final, Protocol

from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.repeats import Repeats

_log: Final = logger("keyflock.server")


class Lifecycle(Protocol):
    """What can be started, driven and stopped."""

    async def start(self) -> None:
        """Resume whatever was in flight."""
        ...

    async def tick(self) -> None:
        """One pass over what is due."""
        ...

    async def stop(self) -> None:
        """Finish, and let go."""
        ...


class Lifecycles:
    """As one: started in order, stopped the other way round.

    Args:
        first: What everything stands on; if a pass of it fails, the process goes.
        others: If a pass of one fails, it is logged and tried again: rounds must not wait for suggestions.
    """

    def __init__(self, first: Lifecycle, others: Sequence[Lifecycle]) -> None:
        self._first = first
        self._others = tuple(others)
        self._repeats = Repeats()

    async def start(self) -> None:
        """Start all."""
        for one in (self._first, *self._others):
            await one.start()

    async def tick(self) -> None:
        """One pass over all."""
        await self._first.tick()
        for one in self._others:
            try:
                await one.tick()
            except Exception as error:  # noqa: BLE001 - whatever it was, the rounds go on
                part = type(one).__name__
                if (untold := self._repeats.untold("a pass failed", error, part)) is not None:
                    _log.error("a pass failed; it is tried again", part=part, repeated=untold, exc_info=error)

    async def stop(self) -> None:
        """Stop all."""
        for one in reversed(self._others):
            try:
                await one.stop()
            except Exception as error:  # noqa: BLE001 - whatever it was, the reports that wait are committed
                _log.error("a part did not stop well", part=type(one).__name__, exc_info=error)
        await self._first.stop()

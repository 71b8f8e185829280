"""Parts of a server that are started, driven and stopped together."""

from collections.abc import Sequence
from typing import Final, Protocol

from keyflock_server.telemetry.log_throttle import LogThrottle
from keyflock_server.telemetry.logs import logger

_log: Final = logger("keyflock.server")


class Lifecycle(Protocol):
    """A part of a server that can be started, driven and stopped."""

    async def start(self) -> None:
        """Start, and resume interrupted work."""
        ...

    async def tick(self) -> None:
        """Run one pass over what is due."""
        ...

    async def stop(self) -> None:
        """Finish, and release all resources."""
        ...


class LifecycleGroup:
    """Several lifecycles as one: started in order, stopped in reverse order.

    Args:
        first: The part that all others need; if one of its passes fails, the process ends.
        others: If a pass of one fails, it is logged and tried again: rounds must not wait for suggestions.
    """

    def __init__(self, first: Lifecycle, others: Sequence[Lifecycle]) -> None:
        self._first = first
        self._others = tuple(others)
        self._log_throttle = LogThrottle()

    async def start(self) -> None:
        """Start all parts."""
        for one in (self._first, *self._others):
            await one.start()

    async def tick(self) -> None:
        """Run one pass over all parts."""
        await self._first.tick()
        for one in self._others:
            try:
                await one.tick()
            except Exception as error:  # noqa: BLE001 - after any error the rounds go on
                part = type(one).__name__
                if (
                    suppressed := self._log_throttle.suppressed_count("a pass failed", error, part)
                ) is not None:
                    _log.error(
                        "a pass failed; it is tried again", part=part, repeated=suppressed, exc_info=error
                    )

    async def stop(self) -> None:
        """Stop all parts."""
        for one in reversed(self._others):
            try:
                await one.stop()
            except Exception as error:  # noqa: BLE001 - after any error the waiting reports are committed
                _log.error("a part did not stop well", part=type(one).__name__, exc_info=error)
        await self._first.stop()

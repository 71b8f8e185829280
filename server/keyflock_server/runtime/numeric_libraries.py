"""JAX is imported once a server is ready and has rounds to close, before the first of them has to be closed.

JAX, Flax and Optax take seconds to import, and more memory than the rest of the server; phones need none of
them. A process that closes no rounds never imports them.
"""

import asyncio
import importlib
from collections.abc import Callable
from typing import Final

from keyflock_server.coordinator.compute_thread import ComputeThread
from keyflock_server.garbage_collection import lasting_objects

#: What opening and closing rounds imports where it first needs it.
_WITH_JAX: Final = (
    "keyflock_models.network.anchor_loss",
    "keyflock_server.aggregation.reference_delta",
    "keyflock_server.aggregation.server_step",
)


class NumericLibraries:
    """Imports what closing a round needs, in the background.

    Args:
        closing: The thread that opens and closes rounds.
        is_needed: Whether this process has rounds to close.
    """

    def __init__(self, closing: ComputeThread, is_needed: Callable[[], bool]) -> None:
        self._closing = closing
        self._is_needed = is_needed
        self._importing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Do nothing: the server becomes ready first."""

    async def tick(self) -> None:
        """Begin to import at the first pass with a round to close; raises what kept an import from ending."""
        if self._importing is None and self._is_needed():
            self._importing = asyncio.create_task(self._closing.run(import_now), name="import JAX")
        if self._importing is not None and self._importing.done():
            self._importing.result()

    async def stop(self) -> None:
        """Wait for the import under way: the thread that does it cannot be interrupted."""
        if self._importing is not None:
            await asyncio.wait({self._importing})


def import_now() -> None:
    """Import JAX and everything else that opening or closing a round imports when it needs it."""
    with lasting_objects():
        for module in _WITH_JAX:
            importlib.import_module(module)

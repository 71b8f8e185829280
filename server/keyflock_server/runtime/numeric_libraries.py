"""JAX is imported once a server is ready and has rounds to close, before the first of them has to be closed.

JAX, Flax and Optax take seconds to import, and more memory than the rest of the server; phones need none of
them. A process that closes no rounds never imports them.
"""

import importlib
import math
import time
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
#: Time between an import that failed and the next one, which takes seconds on a core.
RETRY_PAUSE_S: Final = 60.0


class NumericLibraries:
    """Imports what closing a round needs, in the background.

    Args:
        closing: The thread that opens and closes rounds.
        is_needed: Whether this process has rounds to close.
        monotonic: A clock in seconds that never goes back.
    """

    def __init__(
        self,
        closing: ComputeThread,
        is_needed: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._closing = closing
        self._is_needed = is_needed
        self._monotonic = monotonic
        #: When the next import may begin; None while one is under way, and after one that succeeded.
        self._next_at_s: float | None = -math.inf
        self._error: BaseException | None = None

    async def start(self) -> None:
        """Do nothing: the server becomes ready first."""

    async def tick(self) -> None:
        """Begin to import at the first pass with a round to close, and again some time after a failure.

        Raises:
            Exception: what kept an import from ending, at the pass that follows it.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._next_at_s is not None and self._monotonic() >= self._next_at_s and self._is_needed():
            self._next_at_s = None
            self._closing.submit(self._imported, import_now)

    async def stop(self) -> None:
        """Leave an import under way to the closing thread, which ends after it: nothing waits for JAX now."""

    def _imported(self, _: None, error: BaseException | None) -> None:
        if error is not None:
            self._error, self._next_at_s = error, self._monotonic() + RETRY_PAUSE_S


def import_now() -> None:
    """Import JAX and everything else that opening or closing a round imports when it needs it."""
    with lasting_objects():
        for module in _WITH_JAX:
            importlib.import_module(module)

"""Deletes a population: it is gone with one transaction, and what it leaves is deleted in small ones.

Killed in between, the server goes on after its next start, and other processes within a minute. What goes:
its devices, as a forget-me deletes them; personal models, with their bytes in the store's files; rounds,
tasks, versions and blobs. Its id stays, so that no token that names it ever means another population.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.erasure import ErasureService
from keyflock_server.coordinator.model_store import population_unknown
from keyflock_server.coordinator.round_driver import RoundDriver
from keyflock_server.identity.owners import Owner
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.numbered_names import base_name
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import PopulationGone, PopulationInUse

#: Devices or personal models, and rounds, in one transaction: a device takes 3 ms, and others wait meanwhile.
_BATCH_SIZE: Final = 100
_ROUNDS_AT_ONCE: Final = 50
#: Transactions within an operator's call; the passes do the others.
_STEPS_IN_CALL: Final = 30
#: How long after a look for unfinished deletions there is another one.
_INTERVAL: Final = timedelta(minutes=1)
#: The pause before another attempt where a reader keeps deleted bytes in the store's files.
_RETRY_AFTER: Final = timedelta(seconds=5)


class PopulationDeletion:
    """Deletes populations, and finishes what a killed process has left."""

    def __init__(self, deps: Dependencies, erasure: ErasureService, rounds: RoundDriver) -> None:
        self._deps = deps
        self._erasure = erasure
        self._rounds = rounds
        #: When to look for deletions that were not finished; None: now.
        self._due_at: datetime | None = None
        self._left: list[PopulationName] = []
        #: Deletes owners' personal models; a server whose memory holds some deletes those too.
        self.erase_models: Callable[[PopulationName, Sequence[Owner]], Awaitable[object]]
        self.erase_models = deps.store.personal_models.delete
        #: Held during a step, so that the passes of this process do not repeat an operator's call.
        self._lock = asyncio.Lock()

    async def delete(self, name: PopulationName, audit: AuditContext) -> bool:
        """Delete a population; return whether all of it is gone from the store's files already.

        Edge cases:
            thousands of devices, or a reader that keeps deleted bytes in the store's files -> False; the
            passes go on
        Raises:
            ApiError: ``population_unknown``; ``conflict`` while it has tasks or rounds that are not over.
        """
        try:
            await self._deps.store.populations.mark_deleted(name, self._deps.clock(), audit=audit)
        except PopulationGone:
            raise population_unknown() from None
        except PopulationInUse as left:
            raise ApiError(ProblemCode.CONFLICT, _in_use(left)) from None
        async with self._lock:
            for _ in range(_STEPS_IN_CALL):
                if (is_done := await self._step(name)) is not None:
                    break
        if is_done is not True:
            self._due_at = None if is_done is None else self._deps.clock() + _RETRY_AFTER
        return is_done is True

    async def resume_due(self) -> None:
        """Do one step of a deletion that was not finished, if there is one."""
        now = self._deps.clock()
        if self._due_at is None or now >= self._due_at:
            self._left = await self._deps.store.populations.deleting()
            self._due_at = now + _INTERVAL
        if not self._left or self._lock.locked():
            return
        async with self._lock:
            is_done = await self._step(self._left[0])
        if is_done is not None:
            del self._left[0]
        if is_done is False:
            self._due_at = now + _RETRY_AFTER

    async def _step(self, name: PopulationName) -> bool | None:
        """Delete the next part.

        Returns:
            True after the last part, False if it must be tried again later, None if there is more.
        """
        store = self._deps.store
        devices = await store.devices.page(name, None, _BATCH_SIZE)
        if devices:
            await self._erasure.forget([device.id for device in devices])
            return None
        if owners := await store.personal_models.owners(name, _BATCH_SIZE):
            await self.erase_models(name, [Owner(owner) for owner in owners])
            return None
        if await store.populations.delete_rounds(name, _ROUNDS_AT_ONCE):
            return None
        # Before the last rows go: a process that is killed here scrubs again.
        if not await store.personal_models.scrub():
            return False
        try:
            keys = await store.populations.finish_deletion(name)
        except PopulationGone:
            return True
        # What a crash leaves here is collected as orphans.
        await self._rounds.delete_blobs(keys)
        self._deps.observer.population_deleted(name)
        return True


def _in_use(left: PopulationInUse) -> str:
    if left.tasks:
        # A task that is not over is the newest of its name.
        names = ", ".join(base_name(task) for task in left.tasks)
        return f"These tasks of it are not over: {names}. Cancel them, and delete it then."
    return f"These rounds of it are just ending: {', '.join(left.rounds)}. Try again in some seconds."

"""Which device tokens are void, as the store says it: kept in memory, followed from process to process.

A process knows its own revocations at once, and another one's at the latest ``POLL_EVERY`` and the longest
step of a pass later: five seconds, as long as the store answers.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.revocations import ALL_GENERATIONS, is_void
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.storage.records import DeviceRecord, RevocationRecord

#: How long another process's revocations may go unread.
POLL_EVERY: Final = timedelta(seconds=2)
#: Read again each time: clocks differ, and a transaction is committed later than it says.
_OVERLAP: Final = timedelta(seconds=120)
#: Of a token's life, for clocks that differ.
_LEEWAY: Final = timedelta(seconds=60)
#: Of a device whose tokens an operator made void: longer than any token lives, also one that was given out
#: before the setting of its life was lowered.
_REVOKED_KEPT: Final = timedelta(days=400)
_PRUNE_EVERY: Final = timedelta(hours=1)
#: Rows deleted in one transaction; the next pass goes on.
_PRUNED_AT_ONCE: Final = 1_000
_DROP_EVERY: Final = timedelta(minutes=1)


class TokenRevocations:
    """Writes and follows revocations."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._read_at: datetime | None = None
        self._dropped_at: datetime | None = None
        self._prune_at: datetime | None = None

    async def follow(self) -> None:
        """Learn what other processes have revoked, if that is some time ago; due between any two steps."""
        world, now = self._world, self._world.clock()
        is_first = self._read_at is None
        if is_first or (not world.is_sole and not _is_recent(self._read_at, now, POLL_EVERY)):
            since = None if self._read_at is None else min(self._read_at, now) - _OVERLAP
            for record in await world.store.revocations.since(since):
                self.learn(record)
            self._read_at = now
        if not _is_recent(self._dropped_at, now, _DROP_EVERY):
            world.revocations.drop_expired(now)
            self._dropped_at = now

    async def prune(self) -> None:
        """Delete revocations and tombstones that say nothing any more."""
        store, now = self._world.store, self._world.clock()
        if _is_recent(self._prune_at, now, _PRUNE_EVERY):
            return
        revocations = await store.revocations.prune(now, _PRUNED_AT_ONCE)
        tombstones = await store.tombstones.prune(now, _PRUNED_AT_ONCE)
        if max(revocations, tombstones) < _PRUNED_AT_ONCE:
            self._prune_at = now

    def learn(self, record: RevocationRecord) -> None:
        """Go by this revocation from now on."""
        self._world.revocations.learn(
            record.device_digest, record.generation, record.effective_at, record.until
        )

    def of_refreshed(self, shown: DeviceIdentity) -> RevocationRecord:
        """Return what becomes of the token that was exchanged for a new one: a short grace, then nothing."""
        now = self._world.clock()
        grace = timedelta(seconds=self._world.token_grace_s)
        # Until the refresh, tokens of no generation were given out side by side: any may be the last.
        end = shown.expires_at if shown.generation else None
        return self._record(shown.device, shown.generation, now + grace, (end or self._last_end(now)) + grace)

    def of_forgotten(self, device: DeviceId) -> RevocationRecord:
        """Return what becomes of all tokens of a device that is forgotten."""
        now = self._world.clock()
        return self._record(device, ALL_GENERATIONS, now, self._last_end(now))

    async def is_in_grace(self, shown: DeviceIdentity) -> bool:
        """Whether a token that was exchanged for a new one is still good; asks the store."""
        world = self._world
        known = await world.store.revocations.get(world.revocations.digest(shown.device))
        return known is not None and not is_void(
            shown.generation, known.generation, known.effective_at, world.clock()
        )

    async def revoke(self, device: DeviceId) -> None:
        """Make all tokens of a device void, for refreshing too; its row stays.

        Raises:
            Refused: ``not_found``.
        """
        while True:
            row = await self._world.store.devices.get(device)
            if row is None:
                raise Refused(ProblemCode.NOT_FOUND, "There is no such device here.")
            if await self._revoked(row):
                return

    async def _revoked(self, row: DeviceRecord) -> bool:
        now = self._world.clock()
        end = max(self._last_end(now), now + _REVOKED_KEPT)
        record = self._record(row.id, row.token_generation, now, end)
        after = replace(row, token_generation=row.token_generation + 1)
        if not await self._world.store.devices.renew(row, after, record):
            return False
        self.learn(record)
        return True

    def _last_end(self, now: datetime) -> datetime:
        """When the newest token that can have been given out expires."""
        return now + timedelta(seconds=self._world.device_token_ttl_s)

    def _record(
        self, device: DeviceId, generation: int, effective_at: datetime, end: datetime
    ) -> RevocationRecord:
        return RevocationRecord(
            device_digest=self._world.revocations.digest(device),
            generation=generation,
            effective_at=effective_at,
            until=max(effective_at, end) + _LEEWAY,
            written_at=self._world.clock(),
        )


def _is_recent(at: datetime | None, now: datetime, within: timedelta) -> bool:
    return at is not None and timedelta(0) <= now - at < within

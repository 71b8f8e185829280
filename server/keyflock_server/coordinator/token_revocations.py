"""Token revocations are stored, cached in memory, and synced between processes.

A process knows its own revocations at once, and another one's at most ``POLL_INTERVAL`` plus the longest step
of a pass later: five seconds, as long as the store answers.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.revocations import ALL_GENERATIONS, is_void
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.records import DeviceRecord, RevocationRecord

#: Maximum time between two reads of other processes' revocations.
POLL_INTERVAL: Final = timedelta(seconds=2)
#: Time span that is read again each time: clocks differ, and transactions commit later than they say.
_OVERLAP: Final = timedelta(seconds=120)
#: Added to a token's lifetime, because clocks differ.
_LEEWAY: Final = timedelta(seconds=60)
#: How long an operator's revocation is stored: longer than any token lives, even one issued before the
#: lifetime setting was lowered.
_REVOKED_RETENTION: Final = timedelta(days=400)
_PRUNE_INTERVAL: Final = timedelta(hours=1)
#: Maximum number of rows deleted in one transaction; the next pass goes on.
_PRUNE_BATCH: Final = 1_000
_DROP_INTERVAL: Final = timedelta(minutes=1)


class TokenRevocations:
    """Stores revocations and syncs them between processes."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._read_at: datetime | None = None
        self._dropped_at: datetime | None = None
        self._prune_at: datetime | None = None

    async def sync(self) -> None:
        """Read other processes' revocations if the last read is old; called between any two steps."""
        deps, now = self._deps, self._deps.clock()
        is_first = self._read_at is None
        if is_first or (not deps.is_sole and not _is_recent(self._read_at, now, POLL_INTERVAL)):
            since = None if self._read_at is None else min(self._read_at, now) - _OVERLAP
            for record in await deps.store.revocations.since(since):
                self.apply(record)
            self._read_at = now
        if not _is_recent(self._dropped_at, now, _DROP_INTERVAL):
            deps.revocations.drop_expired(now)
            self._dropped_at = now

    async def prune(self) -> None:
        """Delete revocations and tombstones that have expired."""
        store, now = self._deps.store, self._deps.clock()
        if _is_recent(self._prune_at, now, _PRUNE_INTERVAL):
            return
        revocations = await store.revocations.prune(now, _PRUNE_BATCH)
        tombstones = await store.tombstones.prune(now, _PRUNE_BATCH)
        if max(revocations, tombstones) < _PRUNE_BATCH:
            self._prune_at = now

    def apply(self, record: RevocationRecord) -> None:
        """Apply this revocation from now on."""
        self._deps.revocations.record(
            record.device_digest, record.generation, record.effective_at, record.until
        )

    def revocation_of_refreshed(self, token: DeviceIdentity) -> RevocationRecord:
        """Return the revocation of a token that was exchanged; it takes effect after a grace."""
        now = self._deps.clock()
        grace = timedelta(seconds=self._deps.token_grace_s)
        # Tokens without a generation, from before the refresh, were parallel: any may be the last.
        end = token.expires_at if token.generation else None
        return self._record(
            token.device, token.generation, now + grace, (end or self._latest_expiry(now)) + grace
        )

    def revocation_of_forgotten(self, device: DeviceId) -> RevocationRecord:
        """Return the revocation of all tokens of a device that is erased."""
        now = self._deps.clock()
        return self._record(device, ALL_GENERATIONS, now, self._latest_expiry(now))

    async def is_in_grace(self, token: DeviceIdentity) -> bool:
        """Return whether a token that was exchanged for a new one is still valid; this queries the store."""
        deps = self._deps
        known = await deps.store.revocations.get(deps.revocations.digest(token.device))
        return known is not None and not is_void(
            token.generation, known.generation, known.effective_at, deps.clock()
        )

    async def revoke(self, device: DeviceId, *, audit: AuditContext) -> None:
        """Revoke all tokens of a device, for refreshing too; its row stays.

        Raises:
            ApiError: ``not_found``.
        """
        while True:
            row = await self._deps.store.devices.get(device)
            if row is None:
                raise ApiError(ProblemCode.NOT_FOUND, "There is no such device here.")
            if await self._try_revoke(row, audit.about(self._deps.revocations.digest(device))):
                return

    async def _try_revoke(self, row: DeviceRecord, audit: AuditContext) -> bool:
        now = self._deps.clock()
        end = max(self._latest_expiry(now), now + _REVOKED_RETENTION)
        record = self._record(row.id, row.token_generation, now, end)
        after = replace(row, token_generation=row.token_generation + 1)
        if not await self._deps.store.devices.renew(row, after, record, audit=audit):
            return False
        self.apply(record)
        return True

    def _latest_expiry(self, now: datetime) -> datetime:
        """Return when the newest token that can have been issued expires."""
        return now + timedelta(seconds=self._deps.device_token_ttl_s)

    def _record(
        self, device: DeviceId, generation: int, effective_at: datetime, end: datetime
    ) -> RevocationRecord:
        return RevocationRecord(
            device_digest=self._deps.revocations.digest(device),
            generation=generation,
            effective_at=effective_at,
            until=max(effective_at, end) + _LEEWAY,
            written_at=self._deps.clock(),
        )


def _is_recent(at: datetime | None, now: datetime, within: timedelta) -> bool:
    return at is not None and timedelta(0) <= now - at < within

"""Deletion of expired rows in memory."""

from tests.memory_store.rows import MemoryRows

from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName, RoundId
from keyflock_server.storage.retention import ExpiredRows, PrunedRows, UnprovenDevices


class MemoryRetentionRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def count(self, expired: ExpiredRows) -> PrunedRows:
        """Count the rows that ``delete`` would delete."""
        assignments, devices, heads, versions = self._matching(expired)
        return PrunedRows(
            assignments=len(assignments), devices=len(devices), heads=len(heads), versions=len(versions)
        )

    async def delete(self, expired: ExpiredRows) -> PrunedRows:
        """Delete the expired rows."""
        gone = await self.count(expired)
        assignments, devices, heads, versions = self._matching(expired)
        for assignment in assignments:
            del self._rows.assignments[assignment]
        for device in devices:
            del self._rows.devices[device]
        for head in heads:
            del self._rows.personal_models[head]
        for version in versions:
            del self._rows.versions[version]
        return gone

    async def delete_unproven(self, unproven: UnprovenDevices, limit: int) -> int:
        """Delete the expired rows."""
        under_way = self._under_way()
        going = [
            device.id
            for device in sorted(self._rows.devices.values(), key=lambda one: (one.last_seen_at, one.id))
            if unproven.include(device) and device.id not in under_way
        ][:limit]
        for device_id in going:
            del self._rows.devices[device_id]
        return len(going)

    def _under_way(self) -> set[DeviceId]:
        rounds = self._rows.rounds
        return {key[1] for key in self._rows.assignments if not rounds[key[0]].round.is_over}

    def _matching(
        self, expired: ExpiredRows
    ) -> tuple[
        list[tuple[RoundId, DeviceId]],
        list[DeviceId],
        list[tuple[PopulationName, str]],
        list[tuple[PopulationName, ModelVersion]],
    ]:
        rows = self._rows
        over = {
            record.round.id
            for record in rows.rounds.values()
            if record.round.is_over
            and record.round.closed_at is not None
            and record.round.closed_at < expired.rounds_ended_before
            and record.round.task not in expired.excluded_tasks
        }
        under_way = self._under_way()
        return (
            [key for key in rows.assignments if key[0] in over],
            [
                device.id
                for device in rows.devices.values()
                if device.last_seen_at < expired.devices_seen_before or expired.unproven.include(device)
                if device.id not in under_way
            ],
            [
                key
                for key, head in rows.personal_models.items()
                if head.updated_at < expired.devices_seen_before
            ],
            [
                key
                for key in expired.versions
                if key in rows.versions and rows.versions[key].pinned_at is None
                if (state := rows.newest_release(key[0])) is None or key[1] not in state.versions
            ],
        )

"""A task may limit how often one device takes part; whoever has reached the limit is remembered."""

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.rounds.eligibility import Ineligible, participation_limit_reached
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.storage.records import parse_participations


class ParticipationLimits:
    """Says which devices may not take part in a task again."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    def known_limit(self, spec: TaskSpec, device: DeviceId) -> Ineligible | None:
        """Return the broken limit if this process has seen that the device has reached it."""
        if spec.eligibility.max_participations is None:
            return None
        known = self._deps.activity.participations(spec.name, device)
        return None if known is None else participation_limit_reached(spec.eligibility, known)

    async def limit(self, spec: TaskSpec, device: DeviceId) -> Ineligible | None:
        """Return the broken limit if the device has reached it; asks the store where there is a limit."""
        if spec.eligibility.max_participations is None:
            return None
        store = self._deps.store
        row = await store.devices.get(device)
        before = {} if row is None else parse_participations(row.past_participations_json)
        counted = await store.assignments.participations(spec.name, device)
        total = before.get(spec.name, 0) + counted
        limit = participation_limit_reached(spec.eligibility, total)
        if limit is not None:
            self._deps.activity.exhausted(spec.name, device, total)
        return limit

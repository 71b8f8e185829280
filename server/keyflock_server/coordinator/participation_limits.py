"""A task may limit how often one device takes part; whoever has reached the limit is remembered.

A device is counted at most once for a pair of versions that ``evaluate`` tasks compare, whichever task asks.
One round of a pair is open at a time, and those before it are over; so what the store says of those is final.
"""

from typing import Final, NamedTuple

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, TaskName
from keyflock_server.protocol.messages import RefusalReason, TaskKind
from keyflock_server.rounds.eligibility import Ineligible, participation_limit_reached
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.storage.records import parse_participations

_EVALUATED: Final = Ineligible(
    RefusalReason.NOT_ELIGIBLE, "This device has scored these two versions already."
)


class _Pair(NamedTuple):
    """The versions that an ``evaluate`` round compares."""

    versions: tuple[ModelVersion, ModelVersion]
    #: What stands for them among the tasks with a limit.
    key: TaskName


def _pair_of(spec: TaskSpec) -> _Pair | None:
    """Return the pair of an ``evaluate`` round's spec; None for other kinds, and where none is open."""
    if spec.kind is not TaskKind.EVALUATE:
        return None
    match spec.comparison.versions:
        case (candidate, baseline):
            return _Pair((candidate, baseline), TaskName(f"{spec.population} {candidate} {baseline}"))
        case _:
            return None


class ParticipationLimits:
    """Says which devices may not take part in a task again."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    def known_limit(self, spec: TaskSpec, device: DeviceId) -> Ineligible | None:
        """Return the broken limit if this process has seen that the device has reached it."""
        if (pair := _pair_of(spec)) is not None:
            known = self._deps.activity.participations(pair.key, device)
            return None if known is None else _EVALUATED
        if spec.eligibility.max_participations is None:
            return None
        known = self._deps.activity.participations(spec.name, device)
        return None if known is None else participation_limit_reached(spec.eligibility, known)

    async def limit(self, spec: TaskSpec, device: DeviceId) -> Ineligible | None:
        """Return the broken limit if the device has reached it; asks the store where there is a limit."""
        store = self._deps.store
        if (pair := _pair_of(spec)) is not None:
            if not await store.evaluations.has_counted(spec.population, *pair.versions, device):
                return None
            self._deps.activity.exhausted(pair.key, device, 1)
            return _EVALUATED
        if spec.eligibility.max_participations is None:
            return None
        row = await store.devices.get(device)
        before = {} if row is None else parse_participations(row.past_participations_json)
        counted = await store.assignments.participations(spec.name, device)
        total = before.get(spec.name, 0) + counted
        limit = participation_limit_reached(spec.eligibility, total)
        if limit is not None:
            self._deps.activity.exhausted(spec.name, device, total)
        return limit

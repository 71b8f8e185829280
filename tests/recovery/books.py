"""The servers' side of the story, read from what they left: rows, model versions, partial aggregates."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tests.recovery.marks import LAYOUT, ROUND_GOAL

from keyflock_models.checkpoint import Checkpoint
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.protocol.identifiers import DeviceId, RoundId
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.door import Blobs, Store
from keyflock_server.storage.records import AssignmentState, RoundRecord

Marks = NDArray[np.float64]
#: How far a sum that was rounded may be from the rows' weights. A report of an asynchronous task weighs at
#: least 0.3 (1/sqrt(1 + 10)), and so do two of them against one; float32 errs by a thousandth at worst.
ROUNDING: Final = 0.02


@dataclass(frozen=True, slots=True)
class Row:
    """A report that the rows say is counted."""

    #: Coordinate of whoever made it.
    phone: int
    #: Where it was assigned: with the phone, what tells it from every other report.
    assigned_in: RoundId
    #: Whose aggregate it is in, over carried rounds to the last.
    aggregate: RoundId
    weight: float


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What one round has summed."""

    #: By coordinate, in units of weight: a report that is in it adds its weight at its phone's.
    marks: Marks
    #: Whether float32 has rounded nowhere on the way, so that sums are compared for equality.
    is_exact: bool
    #: Whether it is in the model; otherwise the round is still open.
    is_published: bool


@dataclass(frozen=True, slots=True)
class Books:
    """All of it."""

    rows: tuple[Row, ...]
    aggregates: Mapping[RoundId, Aggregate]
    #: How often rounds ended in each phase, or stand in it.
    phases: Mapping[Phase, int]
    #: Where what a carried round had summed is in the end.
    carried: Mapping[RoundId, RoundId] = field(default_factory=dict)

    def aggregate_of(self, round_id: RoundId) -> RoundId:
        """The round in whose aggregate a round's reports are."""
        return self.carried.get(round_id, round_id)

    def with_discarded(self, discarded: Mapping[RoundId, Aggregate]) -> "Books":
        """The same books with the sums of discarded rounds, as they were read while the rounds were held."""
        return replace(self, aggregates={**self.aggregates, **discarded})

    def without(self, coordinates: Sequence[int]) -> "Books":
        """The same books with nothing at these coordinates: they are judged apart."""
        aggregates = {}
        for round_id, one in self.aggregates.items():
            marks = one.marks.copy()
            marks[list(coordinates)] = 0.0
            aggregates[round_id] = replace(one, marks=marks)
        return replace(self, aggregates=aggregates)


async def read_books(
    store: Store,
    blobs: Blobs,
    phones: Mapping[DeviceId, int],
    apart: AbstractSet[DeviceId] = frozenset(),
) -> Books:
    """The books of servers that have stopped; without the rows of devices that are judged apart."""
    rounds = [record for task in await store.tasks.all() for record in await store.rounds.of_task(task.name)]
    by_id = {record.round.id: record for record in rounds}
    rows = []
    for record in rounds:
        for one in await store.rounds.assignments(record.round.id):
            is_counted = one.state is AssignmentState.COUNTED and one.device not in apart
            if is_counted and one.counted_in is not None:
                aggregate = _last(by_id, one.counted_in)
                rows.append(Row(phones[one.device], one.round_id, aggregate, one.weight))
    aggregates = await _published(blobs, await store.populations.versions(), by_id)
    for record in rounds:
        if not record.round.is_over:
            aggregates[record.round.id] = await _open(store, blobs, record)
    phases: dict[Phase, int] = defaultdict(int)
    for record in rounds:
        phases[record.round.phase] += 1
    carried = {one: _last(by_id, one) for one, record in by_id.items() if record.round.phase is Phase.CARRIED}
    return Books(tuple(rows), aggregates, dict(phases), carried)


def _last(rounds: Mapping[RoundId, RoundRecord], counted_in: RoundId) -> RoundId:
    """A carried round's reports are in the next one's aggregate."""
    current = rounds[counted_in].round
    while current.phase is Phase.CARRIED:
        current = rounds[RoundId(f"{current.task}-{current.sequence + 1}")].round
    return current.id


async def _published(
    blobs: Blobs, versions: Sequence[VersionRecord], rounds: Mapping[RoundId, RoundRecord]
) -> dict[RoundId, Aggregate]:
    """What each version has that the one before has not."""
    found: dict[RoundId, Aggregate] = {}
    before: Marks | None = None
    is_exact = True
    for version in versions:  # by population, oldest first
        checkpoint = Checkpoint.from_bytes(await blobs.get(version.checkpoint_key))
        weights = checkpoint.weights.astype(np.float64)
        if version.round_id is None:
            before, is_exact = weights, True
            continue
        if before is None or version.round_id in found:
            raise AssertionError(f"version {version.version} of {version.population} has no place in a row")
        made_by = rounds[version.round_id].round
        # One mean of another number, and everything after it in this population is rounded.
        is_exact = is_exact and made_by.weight == ROUND_GOAL
        found[version.round_id] = Aggregate((weights - before) * made_by.weight, is_exact, is_published=True)
        before = weights
    return found


async def _open(store: Store, blobs: Blobs, record: RoundRecord) -> Aggregate:
    marks = np.zeros(LAYOUT.size, np.float64)
    for row in await store.rounds.partials(record.round.id):
        marks -= PartialAggregate.from_bytes(await blobs.get(row.key), LAYOUT.size).sum
    return Aggregate(marks, is_exact=not record.round.is_async, is_published=False)

"""What servers recorded about reports: rows, model versions and partial sums."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tests.recovery.one_hot_fleet import LAYOUT, METRICS, ROUND_GOAL, weights_of_evaluation

from keyflock_models.evaluation.paired_scores import paired_layout
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.protocol.identifiers import DeviceId, RoundId
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import AssignmentState, RoundRecord

WeightByPhone = NDArray[np.float64]
#: How far a rounded sum may be from the rows' weights. A report of an asynchronous task weighs at least 0.3
#: (1/sqrt(1 + 10)), so one report more or less shows; float32 errs by a thousandth at most.
ROUNDING_TOLERANCE: Final = 0.02


@dataclass(frozen=True, slots=True)
class TracedReport:
    """A report that the rows count, known by its phone and the round of its assignment."""

    #: The coordinate of the phone that sent it.
    phone: int
    #: The round of its assignment; with the phone it identifies the report.
    assigned_in: RoundId
    #: The round whose sum it is in; carried rounds are followed to the last.
    summed_in: RoundId
    weight: float


@dataclass(frozen=True, slots=True)
class RoundSum:
    """The sum of one round's reports."""

    #: Weight by coordinate: a report in the sum adds its weight at its phone's coordinate.
    weight_by_phone: WeightByPhone
    #: Whether float32 rounded nowhere, so that the sum is compared for equality.
    is_exact: bool
    #: Whether the sum is in a model version; otherwise the round is still open.
    is_published: bool


@dataclass(frozen=True, slots=True)
class RecordedState:
    """What rows, model versions and partial aggregates say about reports."""

    counted_reports: tuple[TracedReport, ...]
    round_sums: Mapping[RoundId, RoundSum]
    #: Number of rounds by phase.
    phases: Mapping[Phase, int]
    #: For each carried round, the round that its sum ended in.
    carried: Mapping[RoundId, RoundId] = field(default_factory=dict)

    def final_round_of(self, round_id: RoundId) -> RoundId:
        """Return the round whose sum has a round's reports."""
        return self.carried.get(round_id, round_id)

    def with_discarded_sums(self, discarded: Mapping[RoundId, RoundSum]) -> "RecordedState":
        """Return the same state with the sums of discarded rounds, read while the rounds were held."""
        return replace(self, round_sums={**self.round_sums, **discarded})

    def without(self, coordinates: Sequence[int]) -> "RecordedState":
        """Return the same state with zeros at these coordinates, which are checked by themselves."""
        sums = {}
        for round_id, one in self.round_sums.items():
            weights = one.weight_by_phone.copy()
            weights[list(coordinates)] = 0.0
            sums[round_id] = replace(one, weight_by_phone=weights)
        return replace(self, round_sums=sums)


async def read_recorded_state(
    store: RecordStore,
    blobs: BlobStore,
    phones: Mapping[DeviceId, int],
    excluded_devices: AbstractSet[DeviceId] = frozenset(),
) -> RecordedState:
    """Return what stopped servers recorded, without the rows of devices that are checked by themselves."""
    rounds = [
        record for task in await store.tasks.all() for record in await store.rounds.list_by_task(task.name)
    ]
    by_id = {record.round.id: record for record in rounds}
    rows = []
    for record in rounds:
        for one in await store.assignments.list_by_round(record.round.id):
            is_counted = one.state is AssignmentState.COUNTED and one.device not in excluded_devices
            if is_counted and one.counted_in is not None:
                summed_in = _follow_carried(by_id, one.counted_in)
                rows.append(TracedReport(phones[one.device], one.round_id, summed_in, one.weight))
    sums = await _published_sums(blobs, await store.populations.versions(), by_id)
    for record in rounds:
        if not record.round.is_over:
            sums[record.round.id] = await _open_round_sum(store, blobs, record)
        elif record.round.spec.kind is TaskKind.EVALUATE:
            is_stored = record.round.is_committed
            sums[record.round.id] = (
                await _evaluation_sum(store, record) if is_stored else _dropped_sum(record.round.id, rows)
            )
    phases: dict[Phase, int] = defaultdict(int)
    for record in rounds:
        phases[record.round.phase] += 1
    carried = {
        one: _follow_carried(by_id, one)
        for one, record in by_id.items()
        if record.round.phase is Phase.CARRIED
    }
    return RecordedState(tuple(rows), sums, dict(phases), carried)


def _follow_carried(rounds: Mapping[RoundId, RoundRecord], counted_in: RoundId) -> RoundId:
    """Return the last of the rounds that a carried round's reports went into."""
    current = rounds[counted_in].round
    while current.phase is Phase.CARRIED:
        current = rounds[RoundId(f"{current.task}-{current.sequence + 1}")].round
    return current.id


async def _published_sums(
    blobs: BlobStore, versions: Sequence[VersionRecord], rounds: Mapping[RoundId, RoundRecord]
) -> dict[RoundId, RoundSum]:
    """Return each version's difference to the one before, by round."""
    found: dict[RoundId, RoundSum] = {}
    before: WeightByPhone | None = None
    is_exact = True
    for version in versions:  # by population, oldest first
        checkpoint = Checkpoint.from_bytes(await blobs.get(version.checkpoint_key))
        weights = checkpoint.weights.astype(np.float64)
        if version.round_id is None:
            before, is_exact = weights, True
            continue
        if before is None or version.round_id in found:
            raise AssertionError(f"version {version.version} of {version.population} does not follow another")
        made_by = rounds[version.round_id].round
        # One mean of another number, and everything after it in this population is rounded.
        is_exact = is_exact and made_by.weight == ROUND_GOAL
        found[version.round_id] = RoundSum((weights - before) * made_by.weight, is_exact, is_published=True)
        before = weights
    return found


def _dropped_sum(round_id: RoundId, rows: Sequence[TracedReport]) -> RoundSum:
    """Return the sum of an evaluation that missed its minimum: only its rows say what was dropped."""
    weights = np.zeros(LAYOUT.size, np.float64)
    for row in rows:
        weights[row.phone] += row.weight if row.summed_in == round_id else 0.0
    return RoundSum(weights, is_exact=True, is_published=False)


async def _evaluation_sum(store: RecordStore, record: RoundRecord) -> RoundSum:
    evaluation = await store.evaluations.get(record.round.id)
    if evaluation is None or evaluation.phones != record.round.reports:
        raise AssertionError(
            f"the evaluation of {record.round.id} is not of its {record.round.reports} reports"
        )
    words = json.loads(record.round.figures_json)["words"] * evaluation.phones
    return RoundSum(weights_of_evaluation(words), is_exact=True, is_published=True)


async def _open_round_sum(store: RecordStore, blobs: BlobStore, record: RoundRecord) -> RoundSum:
    weights = np.zeros(LAYOUT.size, np.float64)
    if record.round.spec.kind is TaskKind.EVALUATE:
        layout = paired_layout(METRICS)
        total = PartialAggregate(layout.size)
        for row in await store.rounds.partials(record.round.id):
            total = total.merged(PartialAggregate.from_bytes(await blobs.get(row.key), layout.size))
        words = float(layout.unflatten(total.sum)["words"][0])
        return RoundSum(weights_of_evaluation(words), is_exact=True, is_published=False)
    for row in await store.rounds.partials(record.round.id):
        weights -= PartialAggregate.from_bytes(await blobs.get(row.key), LAYOUT.size).sum
    return RoundSum(weights, is_exact=not record.round.is_async, is_published=False)

"""The watch tells what the rows show, once, in every process, whichever process has done it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

import pytest
from tests.unit.coordinator.diverging_task import cohort, held_round, play, send
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness

from keyflock_server.audit.entry import AuditEntry
from keyflock_server.coordinator import Coordinator
from keyflock_server.coordinator.events import NullObserver, fan_out
from keyflock_server.live_events import watch
from keyflock_server.live_events.hub import EventHub
from keyflock_server.live_events.recorder import EventRecorder
from keyflock_server.live_events.watch import EventWatch
from keyflock_server.protocol.identifiers import PopulationName, RoundId, TaskName
from keyflock_server.protocol.operator.events import Alarm, EventKind, LiveEvent
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.errors import StorageDamaged, StorageUnavailable, UnreadableRow
from keyflock_server.storage.records import RoundRecord
from keyflock_server.telemetry.metrics import Metrics

T = TaskName("t")


class RecordingHub(EventHub):
    """Keeps what is published."""

    def __init__(self) -> None:
        super().__init__("process", lambda: datetime(2026, 1, 1, tzinfo=UTC))
        self.events: list[LiveEvent] = []

    def publish(self, event: LiveEvent, population: PopulationName | None = None) -> None:
        assert bool(event.population) == (population is not None)
        self.events.append(event)

    def taken(self) -> list[tuple[str, ...]]:
        """Return the kind and the names of each event since the last call."""
        events, self.events = self.events, []
        return [tuple(filter(None, (one.kind, one.task, one.round, one.phase))) for one in events]


@dataclass
class WatchedProcess:
    """A process with a watch."""

    coordinator: Coordinator
    watch: EventWatch
    recorder: EventRecorder
    metrics: Metrics
    hub: RecordingHub = field(default_factory=RecordingHub)

    @classmethod
    def around(cls, coordinator: Coordinator, recorder: EventRecorder) -> Self:
        hub = RecordingHub()
        deps = coordinator._deps
        metrics = Metrics()
        watch = EventWatch(deps, coordinator.registry, recorder, hub, metrics)
        return cls(coordinator, watch, recorder, metrics, hub)

    async def tick(self) -> None:
        await self.coordinator.tick()
        await self.watch.tick()


@pytest.fixture
async def recorder() -> EventRecorder:
    return EventRecorder()


@pytest.fixture
async def harness(recorder: EventRecorder) -> AsyncIterator[CoordinatorHarness]:
    harness = CoordinatorHarness(observer=recorder)
    await harness.coordinator.start()
    await harness.create_population()
    yield harness
    await harness.coordinator.stop()


@pytest.fixture
async def process(harness: CoordinatorHarness, recorder: EventRecorder) -> WatchedProcess:
    process = WatchedProcess.around(harness.coordinator, recorder)
    await process.watch.start()
    return process


async def test_a_round_is_told_from_its_opening_to_its_version(
    harness: CoordinatorHarness, process: WatchedProcess
) -> None:
    await harness.task()
    await process.tick()
    opened = process.hub.taken()
    await play(harness)
    await process.tick()
    await process.tick()

    ended = process.hub.events
    assert [one for one in opened if one[0] != "changed"] == [("round_opened", "t", "t-1", "collecting")]
    assert [(one.kind, one.phase, one.reports, one.version) for one in ended] == [
        (EventKind.VERSION_PUBLISHED, Phase.CLOSED, 4, 1),
        (EventKind.ROUND_ENDED, Phase.CLOSED, 4, 1),
        (EventKind.ROUND_OPENED, Phase.COLLECTING, 0, None),
    ]
    assert {one.population for one in ended} == {POPULATION}


async def test_nothing_is_told_twice_and_what_was_there_at_the_start_is_not_told(
    harness: CoordinatorHarness, recorder: EventRecorder
) -> None:
    await harness.task()
    await play(harness)
    await harness.coordinator.tick()
    process = WatchedProcess.around(harness.coordinator, recorder)

    await process.watch.start()
    await process.tick()
    await process.tick()

    assert process.hub.taken() == []


async def test_a_held_round_is_told_as_held(harness: CoordinatorHarness, process: WatchedProcess) -> None:
    await held_round(harness)
    await process.tick()

    assert ("round_held", "t", "t-1", "held") in process.hub.taken()


async def test_a_process_tells_the_rounds_of_another_also_those_between_two_of_its_passes(
    harness: CoordinatorHarness,
) -> None:
    harness.coordinator, other = harness.another_coordinator("a"), harness.another_coordinator("b")
    await harness.coordinator.start()
    await other.start()
    follower = WatchedProcess.around(other, EventRecorder())
    await follower.watch.start()

    await harness.task()
    for _ in range(3):
        await play(harness)
        harness.pass_time(3)
        await harness.coordinator.tick()
    await follower.tick()

    told = [one for one in follower.hub.taken() if one[0] != "changed"]
    assert [one[0] for one in told].count("round_ended") == 3
    assert [one[0] for one in told].count("version_published") == 3
    assert told[-1] == ("round_opened", "t", "t-4", "collecting")
    await other.stop()


async def play_rounds(harness: CoordinatorHarness, count: int) -> None:
    for _ in range(count):
        await play(harness)
        harness.pass_time(3)
        await harness.coordinator.tick()


async def test_one_damaged_row_of_a_round_is_left_out_and_all_others_are_told_once(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    harness.coordinator, other = harness.another_coordinator("a"), harness.another_coordinator("b")
    await harness.coordinator.start()
    await other.start()
    follower = WatchedProcess.around(other, EventRecorder())
    await follower.watch.start()
    rounds = harness.store.rounds
    get, list_by_task = rounds.get, rounds.list_by_task
    damage = StorageDamaged("The database's row of round t-2 is damaged.")

    async def damaged_get(id_: RoundId) -> RoundRecord | None:
        if id_ == "t-2":
            raise damage
        return await get(id_)

    async def damaged_list(
        task: TaskName, last: int | None = None, unreadable: list[UnreadableRow] | None = None
    ) -> list[RoundRecord]:
        if unreadable is None:
            raise damage
        unreadable.append(UnreadableRow(task, damage))
        return [one for one in await list_by_task(task, last) if one.round.id != "t-2"]

    await harness.task()
    await follower.tick()
    await play_rounds(harness, 5)
    monkeypatch.setattr(rounds, "get", damaged_get)
    monkeypatch.setattr(rounds, "list_by_task", damaged_list)
    for _ in range(3):
        await follower.tick()

    told = [one[2] for one in follower.hub.taken() if one[0] == "round_ended"]
    assert told == ["t-1", "t-3", "t-4", "t-5"]
    assert follower.metrics.damaged_event_rows.labels().value == 1
    assert [one.msg for one in caplog.records if one.name == "keyflock.live_events"] == [
        "live events leave out a damaged row"
    ]
    await other.stop()


async def test_what_a_pass_has_told_before_the_store_went_away_is_not_told_again(
    harness: CoordinatorHarness, process: WatchedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task()
    await process.tick()
    process.hub.taken()
    await play_rounds(harness, 1)
    await harness.coordinator.tick()
    names = harness.store.populations.get
    reads = 0

    async def fail_the_third_time(population: PopulationName) -> object:
        nonlocal reads
        reads += 1
        if reads == 3:
            raise StorageUnavailable("away")
        return await names(population)

    with monkeypatch.context() as away:
        away.setattr(harness.store.populations, "get", fail_the_third_time)
        with pytest.raises(StorageUnavailable):
            await process.watch.tick()
    await process.watch.tick()

    told = [one[0] for one in process.hub.taken() if one[0] != "changed"]
    assert told == ["version_published", "round_ended", "round_opened"]


@pytest.mark.parametrize("rows_at_once", [100, 1])
async def test_one_damaged_audit_entry_is_left_out_and_all_others_are_told_once(
    harness: CoordinatorHarness,
    process: WatchedProcess,
    monkeypatch: pytest.MonkeyPatch,
    rows_at_once: int,
) -> None:
    monkeypatch.setattr(watch, "_AUDIT_ROWS", rows_at_once)
    audit = harness.store.audit
    first, get = (await audit.head()).sequence + 1, audit.get

    async def damaged_list(*_: int) -> list[AuditEntry]:
        raise StorageDamaged("The database's row of the audit log is damaged.")

    async def damaged_get(sequence: int) -> AuditEntry | None:
        if sequence == first + 1:
            raise StorageDamaged("The database's row of the audit log is damaged.")
        return await get(sequence)

    for name in ("t", "u", "v"):
        await harness.task(name)
    monkeypatch.setattr(audit, "ascending", damaged_list)
    monkeypatch.setattr(audit, "get", damaged_get)
    for _ in range(3):
        harness.pass_time(2)
        await process.tick()

    assert [one.audit for one in process.hub.events if one.kind is EventKind.CHANGED] == [first, first + 2]
    assert process.metrics.damaged_event_rows.labels().value == 1


async def test_a_task_that_has_closed_its_last_round_is_told(
    harness: CoordinatorHarness, process: WatchedProcess
) -> None:
    await harness.task(round="goal = 4\nmax_rounds = 1")
    await process.tick()
    await play(harness)
    for _ in range(3):
        await process.tick()

    state = await harness.coordinator.registry.get(T)
    assert state.status is TaskStatus.FINISHED
    assert process.hub.taken()[-1] == ("task_finished", "t")


async def test_an_alarm_is_told_once_a_minute_and_says_that_it_is_of_this_process(
    harness: CoordinatorHarness, process: WatchedProcess, recorder: EventRecorder
) -> None:
    await harness.task()
    await process.tick()
    process.hub.taken()

    for _ in range(3):
        recorder.task_stuck(T, RuntimeError("secret"))
        recorder.store_unreachable(RuntimeError("secret"))
        await process.watch.tick()
    first = list(process.hub.events)
    harness.pass_time(60)
    recorder.task_stuck(T, RuntimeError("secret"))
    await process.watch.tick()

    assert [(one.alarm, one.task, one.is_of_this_process) for one in first] == [
        (Alarm.TASK_STUCK, "t", True),
        (Alarm.STORE_UNREACHABLE, "", True),
    ]
    assert [one.alarm for one in process.hub.events[2:]] == [Alarm.TASK_STUCK]
    assert "secret" not in repr(process.hub.events)


async def test_a_quarantine_is_told_without_the_device(
    harness: CoordinatorHarness, process: WatchedProcess, recorder: EventRecorder
) -> None:
    await harness.task()
    await process.tick()
    process.hub.taken()

    recorder.quarantined(T)
    await process.tick()

    assert process.hub.taken() == [("device_quarantined", "t")]


async def test_what_happens_to_a_population_that_was_deleted_meanwhile_stops_nothing(
    process: WatchedProcess, recorder: EventRecorder
) -> None:
    recorder.task_stuck(TaskName("gone"), RuntimeError())

    await process.tick()

    assert [(one.alarm, one.task) for one in process.hub.events if one.alarm] == [(Alarm.TASK_STUCK, "gone")]


async def test_reports_that_wait_are_no_events(harness: CoordinatorHarness, process: WatchedProcess) -> None:
    await harness.task()
    await process.tick()
    process.hub.taken()

    for one in await cohort(harness):
        with contextlib.suppress(Exception):
            await send(harness, one)
        await process.watch.tick()

    assert process.hub.taken() == []


def test_each_event_of_the_coordinator_reaches_every_observer_that_has_it() -> None:
    one, other = EventRecorder(), EventRecorder()
    both = fan_out(NullObserver(), one, other)

    both.quarantined(T)
    both.blobs_marked()

    assert [len(one.taken()), len(other.taken())] == [1, 1]


def test_an_observer_that_is_alone_with_an_event_is_called_directly() -> None:
    recorder = EventRecorder()

    assert fan_out(NullObserver(), recorder).quarantined == recorder.quarantined

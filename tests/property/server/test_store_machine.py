"""Any sequence of what processes do to a round's rows, done to the fake and to SQLite: both say the same.

And after each step the books agree with each other: what a round has counted is what its assignments say, and
what its partial aggregates hold.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device, count_reports, give_back, take_slot
from tests.contract.test_store_contract import (
    NOW,
    POPULATION,
    ROUND,
    TASK,
    VERSION,
    assignment,
    counted,
    device,
    forgotten,
    partial,
)
from tests.memory_store.store import MemoryStore

from keyflock_server.protocol.identifiers import ModelVersion, RoundId, TaskName
from keyflock_server.rounds.round import (
    Abandoned,
    Accepted,
    Cancelled,
    CloseRequested,
    DeadlineReset,
    Discarded,
    Held,
    Merged,
    Phase,
    Rebased,
    RoundEvent,
    Stepped,
)
from keyflock_server.storage.errors import AlreadyExists, AssignmentsNotOpen, PartialSuperseded, Superseded
from keyflock_server.storage.interfaces.group_writer import (
    AddDevice,
    CountReports,
    GiveBack,
    Operation,
    TakeSlot,
)
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import AssignmentState
from keyflock_server.storage.sql.store import SqlStore

T1 = RoundId("t-1")
DEVICES = ("a", "b", "c", "d", "e", "f", "g")
REFUSALS = (AlreadyExists, AssignmentsNotOpen, PartialSuperseded, Superseded)
Request = Callable[[str, datetime], Operation]
REQUESTS: tuple[Request, ...] = (
    lambda name, _: TakeSlot(assignment(name)),
    lambda name, now: GiveBack(assignment(name), "-v[!", now),
    lambda name, _: AddDevice(device(name)),
)
EVENTS: st.SearchStrategy[RoundEvent] = st.one_of(
    st.sampled_from([CloseRequested(), Merged(), Stepped(), Rebased(), DeadlineReset(), Cancelled("asked")]),
    st.sampled_from([Held("too long"), Accepted("it is fine"), Discarded("it is not")]),
    st.builds(Abandoned, st.just("few"), st.integers(0, 3)),
)


class StoreMachine(RuleBasedStateMachine):
    """Two replicas, seven devices, one round."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.Runner()
        url = f"sqlite+aiosqlite:///{Path(self.folder.name) / 'keyflock.sqlite3'}"
        self.stores: tuple[RecordStore, RecordStore] = (MemoryStore(), SqlStore(url))
        self.now = NOW
        #: By replica: the key, count and weight of its partial aggregate.
        self.sums: dict[str, tuple[str, int, float]] = {}
        self.written = 0

    def teardown(self) -> None:
        self.loop.run(self.stores[1].close())
        self.loop.close()
        self.folder.cleanup()

    def both(self, act: Callable[[RecordStore], Awaitable[object]]) -> object:
        """What both say; the class of a refusal, where it is one."""

        async def said_by(store: RecordStore) -> object:
            try:
                return await act(store)
            except REFUSALS as refusal:
                return type(refusal)

        fake, real = (self.loop.run(said_by(store)) for store in self.stores)
        assert fake == real
        return fake

    @initialize()
    def found(self) -> None:
        async def prepare(store: RecordStore) -> None:
            await store.open()
            await store.populations.add(POPULATION, VERSION, audit=AUDIT)
            await store.tasks.add(TASK, audit=AUDIT)
            await store.rounds.add(ROUND)
            for name in DEVICES:
                await add_device(store, device(name))

        self.both(prepare)

    @rule(name=st.sampled_from(DEVICES))
    def a_device_takes_a_slot(self, name: str) -> None:
        self.both(lambda store: take_slot(store, assignment(name)))

    @rule(name=st.sampled_from(DEVICES))
    def a_device_gives_its_assignment_back(self, name: str) -> None:
        self.both(lambda store: give_back(store, assignment(name), "-v[!", self.now))

    @rule(
        names=st.sets(st.sampled_from(DEVICES), min_size=1, max_size=3),
        replica=st.sampled_from(["r1", "r2"]),
        knows=st.sampled_from([True, True, True, False]),
    )
    def a_replica_flushes(self, names: set[str], replica: str, *, knows: bool) -> None:
        key, count, weight = self.sums.get(replica, (None, 0, 0.0))
        self.written += 1
        row = partial(count + len(names), weight + 2.0 * len(names), f"sum-{self.written}", replica)
        replaces = key if knows else "another"
        reports = [counted(name, 2.0) for name in sorted(names)]

        result = self.both(lambda store: count_reports(store, row, reports, self.now, replaces))

        if result not in REFUSALS:
            assert knows
            self.sums[replica] = (row.key, row.count, row.weight)

    @rule(
        requests=st.lists(
            st.tuples(st.sampled_from(REQUESTS), st.sampled_from(DEVICES)), min_size=1, max_size=6
        ),
        names=st.sets(st.sampled_from(DEVICES), min_size=1, max_size=3),
        replica=st.sampled_from(["r1", "r2"]),
        place=st.integers(0, 6),
    )
    def several_requests_come_at_once(
        self, requests: list[tuple[Request, str]], names: set[str], replica: str, place: int
    ) -> None:
        key, count, weight = self.sums.get(replica, (None, 0, 0.0))
        self.written += 1
        row = partial(count + len(names), weight + 2.0 * len(names), f"sum-{self.written}", replica)
        flush = CountReports(row, [counted(name, 2.0) for name in sorted(names)], self.now, key)
        group: list[Operation] = [request(name, self.now) for request, name in requests]
        group.insert(place, flush)

        async def commit(store: RecordStore) -> list[object]:
            outcomes = await store.group_writer.commit(group)
            return [type(one) if isinstance(one, Exception) else one for one in outcomes]

        result = self.both(commit)

        assert isinstance(result, list)
        if result[group.index(flush)] not in REFUSALS:
            self.sums[replica] = (row.key, row.count, row.weight)

    @rule(excluded=st.sets(st.sampled_from(DEVICES), max_size=2))
    def the_leader_ends_what_ran_out(self, excluded: set[str]) -> None:
        ids = [assignment(name).id for name in sorted(excluded)]
        at = NOW + timedelta(days=1)
        self.both(lambda store: store.rounds.expire(T1, at, excluded=ids))

    @rule(event=EVENTS)
    def a_process_says_what_happened(self, event: RoundEvent) -> None:
        self.now += timedelta(seconds=1)
        self.both(lambda store: store.rounds.advance(T1, event, self.now, {}))

    @rule()
    def a_process_opens_the_next_round(self) -> None:
        following = replace(ROUND, round=replace(ROUND.round, id=RoundId("t-2"), sequence=2))
        before = self.both(lambda store: store.rounds.unfinished())

        result = self.both(lambda store: store.rounds.add(following))

        assert result is AlreadyExists or before == []

    @rule(to=st.integers(0, 3), latest=st.integers(0, 3))
    def the_population_is_rolled_back(self, to: int, latest: int) -> None:
        self.now += timedelta(seconds=1)
        copy = replace(
            VERSION,
            version=ModelVersion(latest + 1),
            parent=ModelVersion(to),
            created_at=self.now,
            anchor_loss=float(to),
        )
        self.both(lambda store: store.populations.roll_back(copy, ModelVersion(latest), "worse", audit=AUDIT))

    @rule(name=st.sampled_from(DEVICES))
    def a_device_is_forgotten(self, name: str) -> None:
        self.both(lambda store: forgotten(store, name))

    @invariant()
    def both_hold_the_same_rows(self) -> None:
        async def rows(store: RecordStore) -> object:
            held = await store.assignments.list_by_round(T1)
            return (
                await store.rounds.list_by_task(TaskName("t")),
                sorted(held, key=lambda row: row.device),
                await store.rounds.partials(T1),
                await store.assignments.count_outstanding(TaskName("t"), NOW - timedelta(days=1), NOW),
                [one.silences for one in await store.devices.page(POPULATION.name, None, 10)],
                await store.populations.all(),
                await store.populations.versions(),
                await store.populations.withdrawn(POPULATION.name),
            )

        self.both(rows)

    @invariant()
    def the_books_agree(self) -> None:
        async def check(store: RecordStore) -> None:
            record = await store.rounds.get(T1)
            assert record is not None
            current, sums = record.round, await store.rounds.partials(T1)
            states = [row.state for row in await store.assignments.list_by_round(T1)]
            # A device that is forgotten takes its assignment with it once the round is over.
            forgotten = current.assigned - len(states)
            assert sum(one.count for one in sums) == current.counted
            assert sum(one.weight for one in sums) == current.weight == 2.0 * current.counted
            assert 0 <= current.counted - states.count(AssignmentState.COUNTED) <= forgotten
            # One that is given back later is marked, and counts no more.
            assert current.failed <= states.count(AssignmentState.FAILED) + forgotten
            is_open = current.phase is Phase.COLLECTING
            assert not is_open or current.failed == states.count(AssignmentState.FAILED)
            # At the end of a round some run out that it does not count.
            assert current.expired <= states.count(AssignmentState.EXPIRED) + forgotten
            assert not is_open or current.expired == states.count(AssignmentState.EXPIRED)
            assert current.is_over or forgotten == 0

        self.loop.run(check(self.stores[1]))


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=20, stateful_step_count=15)

"""Going back to an earlier version, on every store: one transaction, or nothing."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device, take_slot
from tests.contract.stores import STORES, new_store
from tests.contract.test_store_contract import (
    EN,
    NOW,
    POPULATION,
    ROUND,
    SPEC,
    TASK,
    VERSION,
    assignment,
    device,
)

from keyflock_server.protocol.identifiers import ModelVersion, RoundId, TaskName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.round import (
    Accepted,
    CloseRequested,
    Counted,
    Discarded,
    Held,
    Merged,
    PartialsDeleted,
    Phase,
    Published,
    RoundEvent,
    SlotTaken,
    Stepped,
)
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import RoundRecord, StagedVersion

pytestmark = pytest.mark.fault("D9")

LATER = NOW + timedelta(hours=1)
FOUR_REPORTS: tuple[RoundEvent, ...] = (*(SlotTaken() for _ in range(4)), Counted(4, 4.0))


def version(number: int, parent: int, *, loss: float | None = None) -> VersionRecord:
    return replace(
        VERSION,
        version=ModelVersion(number),
        parent=ModelVersion(parent),
        round_id=RoundId(f"t-{number}"),
        created_at=NOW + timedelta(minutes=number),
        download_key=f"download-{number}",
        checkpoint_key=f"checkpoint-{number}",
        anchor_loss=loss,
    )


def back_to(to: int, newest: int, *, loss: float | None = None) -> VersionRecord:
    copied = version(newest + 1, to, loss=loss)
    return replace(copied, round_id=None, created_at=LATER, note=f"Rolled back to {to}: worse")


async def play(store: RecordStore, number: int, *events: RoundEvent, task: str = "t") -> RoundRecord:
    """A further round of a task, to which this happens."""
    spec = spec_of(task)
    opened = replace(
        ROUND.round,
        id=RoundId(f"{task}-{number}"),
        task=TaskName(task),
        sequence=number,
        spec=spec,
        base_version=ModelVersion(number - 1),
    )
    await store.rounds.add(RoundRecord(round=opened))
    for event in events:
        await store.rounds.advance(opened.id, event, NOW, {})
    record = await store.rounds.get(opened.id)
    assert record is not None
    return record


def spec_of(name: str) -> TaskSpec:
    return msgspec.structs.replace(SPEC, task=msgspec.structs.replace(SPEC.task, name=name))


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """Three versions that two rounds of a task have made, and an average of them."""
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(
        replace(POPULATION, anchor_tokens=9, anchor_loss_chosen=5.0), VERSION, audit=AUDIT
    )
    await opened.tasks.add(TASK, audit=AUDIT)
    await opened.tasks.add(replace(TASK, spec=spec_of("u"), created_at=LATER), audit=AUDIT)
    for number in (1, 2):
        record = await play(opened, number, CloseRequested(), Merged(), Stepped("{}"))
        staged = StagedVersion(stepped_from=record.round.base_version, average_key=f"average-{number}")
        await opened.rounds.advance(record.round.id, Held("too long"), NOW, {"staged": staged})
        await opened.rounds.advance(record.round.id, Accepted("it is fine"), NOW, {})
        await opened.rounds.publish(
            record.round.id, version(number, number - 1, loss=5.0 + number), f"state-{number}", NOW
        )
        if number == 1:  # the second is published, and not cleared up yet
            await opened.rounds.advance(record.round.id, PartialsDeleted(), NOW, {})
    yield opened
    await opened.close()


async def test_the_copy_is_the_newest_and_what_lies_between_is_withdrawn(store: RecordStore) -> None:
    left = await store.populations.roll_back(back_to(0, 2, loss=5.5), ModelVersion(2), "worse", audit=AUDIT)

    population = await store.populations.get(EN)
    assert population is not None
    assert (population.latest_version, population.average_key) == (3, None)
    assert population.anchor_loss_chosen == 5.5
    assert set(left.keys) == {"average-2", "state-2"}
    assert {one.version: one.withdrawn_at for one in await store.populations.versions()} == {
        0: None,
        1: LATER,
        2: LATER,
        3: None,
    }
    assert await store.populations.withdrawn(EN) == {1, 2}
    newest = await store.populations.version(EN, ModelVersion(3))
    assert newest == back_to(0, 2, loss=5.5)


async def test_the_tasks_begin_with_fresh_optimiser_states(store: RecordStore) -> None:
    await store.populations.roll_back(back_to(1, 2), ModelVersion(2), "worse", audit=AUDIT)

    assert [task.optimizer_state_key for task in await store.tasks.all()] == [None, None]


async def test_what_was_accepted_is_what_later_versions_are_compared_with(store: RecordStore) -> None:
    population = await store.populations.get(EN)

    assert population is not None
    assert population.anchor_loss_chosen == 7.0


@pytest.mark.parametrize(
    "events",
    [
        (),
        FOUR_REPORTS,
        (CloseRequested(),),
        (CloseRequested(), Merged()),
        (CloseRequested(), Merged(), Stepped("{}")),
        (CloseRequested(), Merged(), Stepped("{}"), Held("too long")),
    ],
    ids=["collecting", "with reports", "closing", "merged", "stepped", "held"],
)
async def test_a_round_that_has_not_published_is_discarded_however_far_it_is(
    store: RecordStore, events: tuple[RoundEvent, ...]
) -> None:
    before = await play(store, 3, *events, task="u")

    left = await store.populations.roll_back(back_to(1, 2), ModelVersion(2), "worse", audit=AUDIT)

    after = await store.rounds.get(before.round.id)
    assert left.rounds == (after,)
    assert after is not None
    assert (after.round.phase, after.round.closed_at) == (Phase.DISCARDED, LATER)
    assert after.round.counted == before.round.counted
    assert after.round.detail.endswith(
        "The population was rolled back to version 1 by an operator: worse. "
        f"The sum of {before.round.counted} reports was discarded."
    )


async def test_nobody_trains_from_a_version_that_is_withdrawn(store: RecordStore) -> None:
    await play(store, 3, task="u")
    await add_device(store, device("a"))
    await take_slot(store, assignment("a", "u-3"))
    since, before = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
    training = await store.assignments.count_outstanding(TaskName("u"), since, before)

    await store.populations.roll_back(back_to(1, 2), ModelVersion(2), "worse", audit=AUDIT)

    assert training == 1
    assert await store.assignments.count_outstanding(TaskName("u"), since, before) == 0


async def test_rounds_that_have_published_stay_as_they_are(store: RecordStore) -> None:
    before = [await store.rounds.get(RoundId(f"t-{number}")) for number in (1, 2)]

    left = await store.populations.roll_back(back_to(0, 2), ModelVersion(2), "worse", audit=AUDIT)

    assert left.rounds == ()
    assert [await store.rounds.get(RoundId(f"t-{number}")) for number in (1, 2)] == before


async def test_nothing_happens_when_another_version_is_the_newest_by_now(store: RecordStore) -> None:
    before = await play(store, 3, CloseRequested(), Merged(), Stepped("{}"), task="u")
    await store.rounds.publish(before.round.id, version(3, 2), "state-3", NOW)

    with pytest.raises(Superseded):
        await store.populations.roll_back(back_to(0, 2), ModelVersion(2), "worse", audit=AUDIT)

    population = await store.populations.get(EN)
    assert population is not None
    assert population.latest_version == 3
    assert await store.populations.withdrawn(EN) == set()


async def test_nothing_happens_when_the_version_is_gone_or_withdrawn(store: RecordStore) -> None:
    await store.populations.roll_back(back_to(0, 2), ModelVersion(2), "worse", audit=AUDIT)
    collecting = await play(store, 4, *FOUR_REPORTS, task="u")

    for to in (2, 17):
        with pytest.raises(Superseded):
            await store.populations.roll_back(back_to(to, 3), ModelVersion(3), "once more", audit=AUDIT)

    assert await store.rounds.get(collecting.round.id) == collecting
    population = await store.populations.get(EN)
    assert population is not None
    assert population.latest_version == 3


async def test_a_discarded_round_publishes_nothing(store: RecordStore) -> None:
    record = await play(store, 3, CloseRequested(), Merged(), Stepped("{}"), task="u")
    await store.populations.roll_back(back_to(1, 2), ModelVersion(2), "worse", audit=AUDIT)

    for event in (Published(ModelVersion(4)), Held("x"), Discarded("x"), Counted(1, 1.0)):
        with pytest.raises(Superseded):
            await store.rounds.advance(record.round.id, event, LATER, {})
    with pytest.raises(Superseded):
        await store.rounds.publish(record.round.id, version(4, 3), "state-4", LATER)
    population = await store.populations.get(EN)
    assert population is not None
    assert population.latest_version == 3

"""One contract for every record store: the release history is append-only; its newest row is the state."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contract.audits import AUDIT, doing, verified
from tests.contract.stores import STORES, new_store
from tests.contract.test_retention_contract import published
from tests.contract.test_store_contract import EN, NOW, POPULATION, TASK, VERSION

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.releases.release_state import ReleaseAction
from keyflock_server.storage.errors import PopulationGone, Superseded
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.operator_records import ReleaseRecord
from keyflock_server.storage.release_rows import release_after_rollback, rows_to_keep, versions_before

FR = PopulationName("fr")
STATE = ReleaseRecord(
    population=EN,
    sequence=0,
    at=NOW,
    action=ReleaseAction.CREATED,
    version=ModelVersion(0),
    operator="ann",
    reason="a test",
)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """A population with the versions 0 to 4, of which 0 is released."""
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    await opened.tasks.add(TASK, audit=AUDIT)
    for number in range(1, 5):
        await published(opened, number)
    yield opened
    await opened.close()


def staged(sequence: int, candidate: int, percent: int) -> ReleaseRecord:
    return replace(
        STATE,
        sequence=sequence,
        action=ReleaseAction.STAGED,
        candidate=ModelVersion(candidate),
        percent=percent,
        evidence_json='{"phones":400}',
    )


async def test_a_new_population_begins_with_version_0_released(store: RecordStore) -> None:
    assert await store.releases.newest(EN) == STATE
    assert await store.releases.all_newest() == {EN: STATE}


async def test_a_row_that_is_appended_is_the_state_and_the_history_stays(store: RecordStore) -> None:
    for number, percent in enumerate((1, 10, 50), start=1):
        await store.releases.append(staged(number, 4, percent), audit=doing("release.stage"))

    assert await store.releases.newest(EN) == staged(3, 4, 50)
    assert await store.releases.page(EN, None, 2) == [staged(3, 4, 50), staged(2, 4, 10)]
    assert await store.releases.page(EN, 2, 10) == [staged(1, 4, 1), STATE]
    newest = (await store.audit.ascending(0, 100))[-1]
    assert (newest.action, newest.subject_kind, newest.subject) == ("release.stage", "release", "en")
    assert await verified(store) is None


async def test_of_two_decisions_on_one_state_the_second_is_refused(store: RecordStore) -> None:
    both = [staged(1, 4, 1), staged(1, 3, 10)]

    done = await asyncio.gather(
        *(store.releases.append(one, audit=AUDIT) for one in both), return_exceptions=True
    )

    assert [type(one) for one in done if one is not None] == [Superseded]
    (first,) = (one for one, outcome in zip(both, done, strict=True) if outcome is None)
    assert await store.releases.page(EN, None, 10) == [first, STATE]


async def test_a_version_that_is_not_there_is_not_released(store: RecordStore) -> None:
    with pytest.raises(Superseded):
        await store.releases.append(staged(1, 9, 1), audit=AUDIT)

    assert await store.releases.newest(EN) == STATE


async def test_a_rollback_ends_the_release_of_what_it_withdraws(store: RecordStore) -> None:
    await store.releases.append(staged(1, 3, 10), audit=AUDIT)
    back = replace(
        VERSION, version=ModelVersion(5), parent=ModelVersion(1), created_at=NOW + timedelta(hours=1)
    )

    await store.populations.roll_back(back, ModelVersion(4), "worse", audit=doing("population.roll_back"))

    state = await store.releases.newest(EN)
    assert state is not None
    assert (state.sequence, state.action, state.reason) == (2, ReleaseAction.WITHDRAWN, "worse")
    assert (state.version, state.candidate, state.percent) == (0, None, 100)
    with pytest.raises(Superseded):
        await store.releases.append(staged(3, 3, 10), audit=AUDIT)
    assert await verified(store) is None


async def test_a_withdrawn_version_is_replaced_by_the_newest_that_was_released_before(
    store: RecordStore,
) -> None:
    for sequence, version in ((1, 1), (2, 4)):
        promoted = replace(
            STATE, sequence=sequence, action=ReleaseAction.PROMOTED, version=ModelVersion(version)
        )
        await store.releases.append(promoted, audit=AUDIT)
    back = replace(VERSION, version=ModelVersion(5), parent=ModelVersion(3))

    await store.populations.roll_back(back, ModelVersion(4), "worse", audit=AUDIT)

    state = await store.releases.newest(EN)
    assert state is not None
    # Version 3, and 5 that has its weights, were never released; 4 is withdrawn.
    assert (state.sequence, state.action, state.version) == (3, ReleaseAction.WITHDRAWN, 1)


async def test_a_version_that_an_operator_took_back_does_not_replace_a_withdrawn_one(
    store: RecordStore,
) -> None:
    # 3 was served and taken back for 1, then 4 was served.
    for sequence, version in enumerate((1, 3, 1, 4), start=1):
        is_back = sequence == 3
        action = ReleaseAction.ROLLED_BACK if is_back else ReleaseAction.PROMOTED
        served = replace(STATE, sequence=sequence, action=action, version=ModelVersion(version))
        await store.releases.append(served, audit=AUDIT)
    back = replace(VERSION, version=ModelVersion(5), parent=ModelVersion(3))

    await store.populations.roll_back(back, ModelVersion(4), "worse", audit=AUDIT)

    state = await store.releases.newest(EN)
    assert state is not None
    assert (state.action, state.version) == (ReleaseAction.WITHDRAWN, 1)


def test_a_rollback_changes_the_release_only_if_it_withdraws_what_is_served() -> None:
    def after(state: ReleaseRecord) -> ReleaseRecord | None:
        return release_after_rollback(state, ModelVersion(2), ModelVersion(1), NOW, "worse", AUDIT)

    behind = after(replace(STATE, version=ModelVersion(4)))
    assert behind is not None
    assert (behind.sequence, behind.version, behind.operator) == (1, 1, "ann")
    assert after(replace(STATE, version=ModelVersion(2))) is None
    assert after(replace(staged(1, 2, 10), version=ModelVersion(1))) is None


async def test_a_deleted_populations_history_goes_and_the_audit_log_stays(store: RecordStore) -> None:
    await store.populations.add(
        replace(POPULATION, name=FR), replace(VERSION, population=FR), audit=doing("population.create")
    )
    await store.populations.mark_deleted(FR, NOW, audit=doing("population.delete"))
    entries = await store.audit.ascending(0, 100)

    assert await store.releases.newest(FR) is None
    with pytest.raises(PopulationGone):
        await store.releases.append(replace(STATE, population=FR, sequence=1), audit=AUDIT)
    await store.populations.finish_deletion(FR)

    assert await store.releases.page(FR, None, 10) == []
    assert await store.audit.ascending(0, 100) == entries
    assert await verified(store) is None


def history(*versions: int) -> list[ReleaseRecord]:
    rows = [replace(STATE, sequence=at, version=ModelVersion(one)) for at, one in enumerate(versions)]
    return rows[::-1]


def test_rolling_back_twice_goes_back_twice() -> None:
    assert versions_before(history(0, 3, 5, 7)) == [5, 3, 0]
    assert versions_before(history(0, 3, 5, 7, 5)) == [3, 0]
    assert versions_before(history(0, 3, 5, 7, 5, 3)) == [0]
    assert versions_before(history(0, 3, 5, 5, 5)) == [3, 0]
    assert versions_before(history(0)) == []


def test_what_a_rollback_would_go_back_to_is_kept() -> None:
    assert [row.version for row in rows_to_keep(history(0, 3, 5, 7, 5))] == [5, 3]
    assert [row.version for row in rows_to_keep(history(4))] == [4]

"""What operators read beyond single rows: rounds' progress, versions with their lineage and distance."""

from datetime import UTC, datetime

import pytest
from tests.unit.coordinator.diverging_task import FIRST, T, cohort, play, send
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness

from keyflock_models.network.checkpoint import Checkpoint
from keyflock_server.audit.context import AuditContext
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import Failure, FailureCause
from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.protocol.problems import ApiError, ProblemCode

NOW = datetime(2026, 3, 1, tzinfo=UTC)
AUDIT = AuditContext(operator="ann", role="operator", reason="the best", action="version.pin", at=NOW)


async def test_a_rounds_progress_says_how_far_its_devices_came_and_why_some_were_lost(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\nover_selection = 1.0")
    claims = await cohort(harness, 7)
    failed = Failure(cause=FailureCause.OUT_OF_MEMORY, session_shape="-v[*")
    for one in claims[:2]:
        await harness.coordinator.reports.failure(one, failed)
    await harness.coordinator.reports.failure(claims[2], Failure(cause=FailureCause.INTERRUPTED))
    harness.pass_time(30.0)
    for one in claims[3:]:
        await send(harness, one)
    await harness.coordinator.tick()

    seen = await harness.coordinator.reading.progress(FIRST)

    assert (seen.assigned, seen.downloaded, seen.trained, seen.counted) == (7, 6, 4, 4)
    assert seen.failures == {"out_of_memory": 2, "interrupted": 1}
    assert [(one.state, one.count) for one in seen.sessions] == [("counted", 4), ("failed", 2), ("failed", 1)]
    assert (seen.first_report_s, seen.p95_report_s) == (30.0, 30.0)
    with pytest.raises(ApiError) as unknown:
        await harness.coordinator.reading.progress(RoundId("t-9"))
    assert unknown.value.code is ProblemCode.NOT_FOUND


async def test_causes_that_could_not_be_written_are_written_with_the_next_pass(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    (claims,) = await cohort(harness, 1)
    failed = Failure(cause=FailureCause.TIMED_OUT)
    await harness.coordinator.reports.failure(claims, failed)
    await harness.coordinator.reports.failure(claims, failed)
    before = await harness.coordinator.reading.progress(FIRST)

    await harness.coordinator.tick()

    assert before.failures == {}
    assert (await harness.coordinator.reading.progress(FIRST)).failures == {"timed_out": 1}


async def test_versions_are_listed_with_the_rounds_that_made_them(harness: CoordinatorHarness) -> None:
    await harness.task()
    await play(harness)

    page = await harness.coordinator.versions.list(POPULATION, None, 1)
    rest = await harness.coordinator.versions.list(POPULATION, page.next, 9)

    (newest,), (first,) = page.items, rest.items
    assert (newest.version, newest.parent, newest.round, newest.task) == (1, 0, FIRST, T)
    assert (newest.reports, newest.is_newest, first.is_newest) == (4, True, False)
    assert newest.figures is not None
    assert newest.figures["step_norm"] > 0
    assert (first.version, first.parent, first.round, rest.next) == (0, None, None, None)


async def test_two_versions_are_as_far_apart_as_the_step_between_them(harness: CoordinatorHarness) -> None:
    await harness.task()
    await play(harness)

    found = await harness.coordinator.versions.compare(POPULATION, 1, 0)
    same = await harness.coordinator.versions.compare(POPULATION, 0, 0)

    assert found.version.figures is not None
    assert found.distance == pytest.approx(found.version.figures["step_norm"])
    assert sum(one.distance**2 for one in found.tensors) == pytest.approx(found.distance**2)
    assert (same.distance, same.max_difference) == (0.0, 0.0)


async def test_a_version_is_downloaded_as_its_phones_have_it_and_as_it_was_trained(
    harness: CoordinatorHarness,
) -> None:
    versions, models = harness.coordinator.versions, harness.coordinator.models

    download = await versions.download(POPULATION, 0, ModelWeights.TRAINING)

    assert download == await models.training_model(POPULATION, 0)
    checkpoint = Checkpoint.from_bytes(await versions.checkpoint(POPULATION, 0))
    assert checkpoint.config == await models.config(POPULATION)
    with pytest.raises(ApiError) as unknown:
        await versions.checkpoint(POPULATION, 9)
    assert unknown.value.code is ProblemCode.MODEL_UNKNOWN


async def test_a_version_that_is_pinned_or_not_has_another_revision(harness: CoordinatorHarness) -> None:
    versions = harness.coordinator.versions
    before = await versions.get(POPULATION, 0)

    pinned = await versions.set_pinned(POPULATION, 0, is_pinned=True, audit=AUDIT)
    after = await versions.set_pinned(POPULATION, 0, is_pinned=False, audit=AUDIT)

    assert (before.pinned_at, pinned.pinned_at, after.pinned_at) == (None, AUDIT.at, None)
    assert pinned.revision != before.revision == after.revision == await versions.revision(POPULATION, 0)


async def test_personal_models_are_numbers_alone(harness: CoordinatorHarness) -> None:
    found = await harness.coordinator.reading.personal_models(POPULATION)

    assert (found.population, found.models, found.stored_bytes, found.gains) == (POPULATION, 0, 0, [])

"""An evaluate round ends when the release has gone on, and nobody asks for its two versions any more."""

import contextlib
from dataclasses import replace

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.evaluate_task import (
    EVALUATING,
    assigned,
    open_evaluation,
    publish_version,
    scores,
    scores_report,
)
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import ModelVersion, RoundId, TaskName
from keyflock_server.protocol.operator.releases import PromoteOrder, StartOrder
from keyflock_server.protocol.problems import ApiError, ProblemCode

ROUNDS = "goal = 8\nminimum = 4\nselection_s = 1.0\ndeadline_s = 7200.0"
TASK = TaskName("e")


async def report_some(harness: CoordinatorHarness, claims: list[AssignmentClaims]) -> None:
    for one in claims + claims:
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, scores_report(scores(), of=one))


async def start(harness: CoordinatorHarness, version: int) -> None:
    await harness.coordinator.releases.start(
        POPULATION, StartOrder(candidate=ModelVersion(version), percent=10, reason="a test"), audit=AUDIT
    )


async def phases(harness: CoordinatorHarness) -> list[tuple[int, int | None, str]]:
    rounds = await listed_rounds(harness.coordinator, TASK)
    return [(one.model_version, one.baseline_version, one.phase) for one in rounds]


async def test_it_ends_when_another_version_is_the_candidate_and_the_next_round_compares_that(
    harness: CoordinatorHarness,
) -> None:
    await publish_version(harness)
    await start(harness, 1)
    await open_evaluation(harness, ROUNDS)
    (late,) = await assigned(harness, 1)
    await publish_version(harness)
    assert await phases(harness) == [(1, 0, "collecting")]

    await start(harness, 2)
    await harness.coordinator.tick()

    assert await phases(harness) == [(1, 0, "abandoned"), (2, 0, "collecting")]
    ended = await harness.coordinator.tasks.round(RoundId("e-1"))
    assert ended.detail == (
        "Version 2 is the candidate by now, and no longer 1. 0 reports had come; the minimum was 4."
    )
    with pytest.raises(ApiError) as refused:
        await harness.coordinator.reports.report(late, scores_report(scores(), of=late))
    assert refused.value.code is ProblemCode.ROUND_GONE


async def test_it_ends_when_the_candidate_is_served_to_everybody_and_the_task_waits(
    harness: CoordinatorHarness,
) -> None:
    await publish_version(harness)
    await open_evaluation(harness, ROUNDS)

    await harness.coordinator.releases.promote(
        POPULATION,
        PromoteOrder(version=ModelVersion(1), is_forced=True, reason="a test"),
        audit=replace(AUDIT, role="admin"),
    )
    await harness.coordinator.tick()

    assert await phases(harness) == [(1, 0, "abandoned")]
    assert "nothing to compare" in (await harness.coordinator.tasks.get(TASK)).waiting_reason
    detail = (await harness.coordinator.tasks.round(RoundId("e-1"))).detail
    assert detail.startswith("Keyboards are served version 1 by now, and no longer 0.")


async def test_with_its_minimum_it_closes_and_its_sums_are_history(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await start(harness, 1)
    await open_evaluation(harness, ROUNDS)
    await report_some(harness, await assigned(harness, 4))
    await publish_version(harness)

    await start(harness, 2)
    await harness.coordinator.tick()

    assert await phases(harness) == [(1, 0, "closed"), (2, 0, "collecting")]
    stored = await harness.store.evaluations.get(RoundId("e-1"))
    assert stored is not None
    assert (stored.candidate, stored.baseline, stored.phones) == (1, 0, 4)


@pytest.mark.parametrize("named", ["candidate = 1\nbaseline = 0", 'candidate = "newest"'])
async def test_versions_that_no_release_names_are_compared_to_the_end(
    harness: CoordinatorHarness, named: str
) -> None:
    await publish_version(harness)
    await start(harness, 1)
    await open_evaluation(harness, ROUNDS, evaluating=f"{named}\n{EVALUATING}")
    await publish_version(harness)

    await start(harness, 2)
    await harness.coordinator.tick()

    assert await phases(harness) == [(1, 0, "collecting")]


async def test_a_replica_does_not_wait_for_its_peers_with_it(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await start(harness, 1)
    await open_evaluation(harness, ROUNDS)
    await publish_version(harness)
    harness.coordinator = harness.another_coordinator("a")
    await harness.coordinator.start()
    other = harness.another_coordinator("b")
    await other.start()
    await start(harness, 2)

    await harness.coordinator.tick()
    await other.tick()

    assert await phases(harness) == [(1, 0, "abandoned"), (2, 0, "collecting")]


async def test_the_release_is_read_once_a_pass(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await start(harness, 1)
    await open_evaluation(harness, ROUNDS)
    read, asked = harness.store.releases.newest, []

    async def count(name: str) -> object:
        asked.append(name)
        return await read(POPULATION)

    harness.store.releases.newest = count  # type: ignore[assignment, method-assign]  # it counts
    for _ in range(3):
        await harness.coordinator.tick()

    assert asked == [POPULATION] * 3

"""A task that trains ends by what evaluate rounds measure of its population's versions."""

import pytest
from tests.unit.coordinator.evaluate_task import (
    assigned,
    check_in,
    open_evaluation,
    publish_version,
    report_all,
    scores,
)
from tests.unit.coordinator.harness import CoordinatorHarness

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.messages import Assignment, TaskKind


async def evaluated(harness: CoordinatorHarness, *recalls: float) -> None:
    """Let four new phones each measure the newest version, once for each of these means."""
    for recall in recalls:
        harness.pass_time(1.0)
        claims: list[AssignmentClaims] = []
        while len(claims) < 4:
            answer = await check_in(harness, await harness.enrol())
            if isinstance(answer, Assignment) and answer.task_kind is TaskKind.EVALUATE:
                claims.append(harness.claims(answer))
        await report_all(harness, claims, scores(candidate=recall))
        await harness.coordinator.tick()


async def end_open_round(harness: CoordinatorHarness) -> None:
    """Let the open round of the training task miss its minimum, so that the next one would open."""
    harness.pass_time(601.0)
    await harness.coordinator.tick()
    await harness.coordinator.tick()


@pytest.mark.parametrize(
    ("policy", "recalls", "state", "reason"),
    [
        ("reaches = 0.5", [0.25, 0.375], "active", ""),
        ("reaches = 0.5", [0.25, 0.5], "finished", "recall_at_3 has reached 0.5 (0.5 asked)."),
        ("no_improvement_for = 2", [0.25, 0.375, 0.25], "active", ""),
        (
            "no_improvement_for = 2",
            [0.375, 0.25, 0.375],
            "finished",
            "recall_at_3 is 0.375, the best was 0.375, and 2 evaluations have not improved on it.",
        ),
    ],
)
async def test_a_task_ends_between_two_rounds(
    harness: CoordinatorHarness, policy: str, recalls: list[float], state: str, reason: str
) -> None:
    await publish_version(harness)
    await open_evaluation(harness)
    await harness.task("stopping", round='goal = 64\non_miss = "abandon"', stop_when=policy)
    await evaluated(harness, *recalls)
    under_way = await harness.coordinator.tasks.get("stopping")

    await end_open_round(harness)

    after = await harness.coordinator.tasks.get("stopping")
    record = await harness.store.tasks.get(after.id)  # type: ignore[arg-type]  # a task's id
    assert under_way.state == "active"
    assert (after.state, record and record.end_reason) == (state, reason)


async def test_the_view_says_how_far_the_end_is(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness)
    await harness.task("stopping", round="goal = 64", stop_when="reaches = 0.5")
    before = await harness.coordinator.tasks.get("stopping")

    await evaluated(harness, 0.25)

    after = await harness.coordinator.tasks.get("stopping")
    assert before.stopping == "No evaluation of recall_at_3 has closed yet."
    assert after.stopping == "recall_at_3 is 0.25, the best was 0.25; it ends at 0.5."
    assert (await harness.coordinator.tasks.get("e")).stopping == ""


async def test_what_was_measured_before_the_task_does_not_end_it(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness)
    await report_all(harness, await assigned(harness, 4), scores(candidate=0.75))
    harness.pass_time(1.0)

    await harness.task("stopping", round="goal = 64", stop_when="reaches = 0.5")
    await end_open_round(harness)

    assert (await harness.coordinator.tasks.get("stopping")).state == "active"


async def test_an_evaluation_of_other_measures_says_nothing(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness)
    await harness.task("stopping", round="goal = 64", stop_when='metric = "nll"\nreaches = 9.0')
    await evaluated(harness, 0.25)

    await end_open_round(harness)

    assert (await harness.coordinator.tasks.get("stopping")).state == "active"


async def test_another_process_ends_it_by_the_same_evaluations(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness)
    await harness.task("stopping", round='goal = 64\non_miss = "abandon"', stop_when="reaches = 0.25")
    await evaluated(harness, 0.25)
    harness.coordinator = harness.another_coordinator()
    await harness.coordinator.start()

    await end_open_round(harness)

    assert (await harness.coordinator.tasks.get("stopping")).state == "finished"

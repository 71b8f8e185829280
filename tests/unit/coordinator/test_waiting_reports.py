"""A report that waits for others: its phone is told for how many, and operators how many wait."""

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds
from tests.unit.coordinator.test_full_round import cohort, send

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.task_validation import parse_task

pytestmark = pytest.mark.fault("F14")


async def test_a_phone_that_is_alone_is_told_what_its_report_is_waiting_for(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8\nmin_flush_clients = 5")
    (claims,) = await cohort(harness, 1)

    with pytest.raises(ApiError) as waiting:
        await harness.coordinator.reports.report(claims, report(constant(1.0), of=claims))

    assert waiting.value.code is ProblemCode.REPORT_PENDING
    assert "at least 5 distinct reports" in waiting.value.detail


async def test_an_operator_sees_how_many_reports_wait_and_for_what(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)
    tasks, name = harness.coordinator.tasks, TaskName(claims[0].task)
    nothing_yet = await tasks.get(name)
    for one in claims[:3]:
        await send(harness, one, 1.0)

    task, (listed,), shown = (
        await tasks.get(name),
        await listed_rounds(harness.coordinator, name),
        await tasks.round(claims[0].round),
    )
    await send(harness, claims[3], 1.0)
    after = await tasks.get(name)

    assert nothing_yet.waiting_reason == ""
    assert task.waiting_reason.startswith("3 reports wait in this process, ")
    assert "at least 4 distinct reports (round.min_flush_clients)" in task.waiting_reason
    assert listed.waiting_reason == shown.waiting_reason == task.waiting_reason
    assert after.waiting_reason == ""


async def test_enough_reports_that_would_leave_too_few_are_explained_too(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 10")
    claims = await cohort(harness, 9)
    for one in claims:
        await send(harness, one, 1.0)

    shown = await harness.coordinator.tasks.round(claims[0].round)

    assert shown.counted == 4
    assert "as many must be left until the goal of 10" in shown.waiting_reason


async def test_a_task_is_shown_without_the_tables_that_mean_nothing_to_it(
    harness: CoordinatorHarness,
) -> None:
    trains = await harness.task(round="goal = 8")
    shown = await harness.coordinator.tasks.get(TaskName(trains.name))

    assert "personalising" not in shown.spec
    assert {"training", "codec", "optimizer"} <= set(shown.spec)


async def test_a_personalize_task_is_shown_with_all_settings_of_the_heads_that_it_tries(
    harness: CoordinatorHarness,
) -> None:
    await harness.coordinator.tasks.create(
        parse_task(
            f'[task]\nname = "p"\npopulation = "{POPULATION}"\nkind = "personalize"\n[round]\ngoal = 4\n'
        ),
        audit=AUDIT,
    )

    shown = await harness.coordinator.tasks.get(TaskName("p"))

    assert shown.spec["personalising"]["heads"] == [
        {"rank": 8, "biases": 256, "learning_rate": 0.01, "epochs": 12, "l2": 0.001, "held_out_ratio": 0.2}
    ]
    assert {"training", "codec", "aggregation", "optimizer", "checks", "release"}.isdisjoint(shown.spec)

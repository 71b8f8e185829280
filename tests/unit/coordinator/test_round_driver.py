"""When a round ends: at which instant, with which reports, and whatever fails in the middle."""

from typing import Any

import pytest
from tests.unit.coordinator.harness import CoordinatorHarness
from tests.unit.coordinator.listed import listed_rounds
from tests.unit.coordinator.test_full_round import cohort, send

from keyflock_server.coordinator import Coordinator
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.problems import ProblemCode
from keyflock_server.storage.errors import StorageError

T, FIRST = TaskName("t"), RoundId("t-1")


async def fail(*_: object, **__: object) -> Any:  # noqa: ANN401 - whatever the call would return
    raise StorageError("The disk is full.")


async def phase(coordinator: Coordinator, round_id: RoundId = FIRST) -> str:
    return (await coordinator.tasks.round(round_id)).phase


async def test_a_round_ends_at_the_instant_of_its_deadline(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 8\nminimum = 4\ndeadline_s = 100.0\nover_selection = 0.0")
    for one in (await cohort(harness, 8))[:4]:
        await send(harness, one, 1.0)
    phases = []

    for seconds in (0.0, 99.999, 0.001):
        harness.pass_time(seconds)
        await harness.coordinator.tick()
        phases.append(await phase(harness.coordinator))

    assert phases == ["collecting", "collecting", "closed"]


async def test_a_leader_gives_the_others_two_seconds_after_the_deadline_to_bring_what_waits_with_them(
    harness: CoordinatorHarness,
) -> None:
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    for one in (here, there):
        await one.start()
    await here.tick()
    await harness.task(round="goal = 9\nminimum = 4\ndeadline_s = 100.0\nover_selection = 0.0")
    await there.tick()
    claims = await cohort(harness, 9)
    for one_claims in claims[:4]:
        await send(harness, one_claims, 1.0)
    await there.tick()
    harness.coordinator = there
    waiting = [await send(harness, one_claims, 1.0) for one_claims in claims[4:8]]
    phases = []

    for seconds in (*[5.0] * 20, 1.999, 0.001):  # in steps: a replica's lease lasts ten seconds
        harness.pass_time(seconds)
        await here.tick()
        phases.append(await phase(here))
        await there.tick()

    assert waiting == [ProblemCode.REPORT_PENDING] * 4
    assert phases == [*["collecting"] * 21, "closed"]
    assert (await here.tasks.round(FIRST)).counted == 8
    for one in (here, there):
        await one.stop()


async def test_a_round_whose_last_flush_fails_does_not_end_without_it(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 9\nminimum = 8\ndeadline_s = 100.0\nover_selection = 0.0")
    claims = (await cohort(harness, 9))[:8]
    for one in claims:
        await send(
            harness, one, 1.0
        )  # four are counted; the others would leave one to come, alone in its flush
    harness.pass_time(100.0)

    with monkeypatch.context() as broken:
        broken.setattr(harness.store.group_writer, "commit", fail)
        await harness.coordinator.tick()
        while_broken = await harness.coordinator.tasks.round(FIRST)
    await harness.coordinator.tick()

    assert (while_broken.phase, while_broken.counted) == ("collecting", 4)
    ended = await harness.coordinator.tasks.round(FIRST)
    assert (ended.phase, ended.counted) == ("closed", 8)
    assert all([isinstance(await send(harness, one, 1.0), Receipt) for one in claims])


async def test_a_round_that_could_not_be_opened_is_opened_by_the_next_pass_with_the_same_number(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(harness.store.rounds, "add", fail)
        await harness.task(round="goal = 4")
        not_opened = list(await listed_rounds(harness.coordinator, T))

    await harness.coordinator.tick()

    assert not_opened == []
    assert [(one.sequence, one.phase) for one in await listed_rounds(harness.coordinator, T)] == [
        (1, "collecting")
    ]
    assert harness.coordinator.registry._states[T].last_error == ""


@pytest.mark.parametrize("reports", [0, 4])
async def test_a_round_that_misses_its_minimum_is_carried_only_if_somebody_reported(
    harness: CoordinatorHarness, reports: int
) -> None:
    await harness.task(round="goal = 12\nminimum = 8\ndeadline_s = 100.0")
    for one in (await cohort(harness, 12))[:reports]:
        await send(harness, one, 1.0)
    harness.pass_time(100.0)

    await harness.coordinator.tick()

    first, second = await listed_rounds(harness.coordinator, T)
    assert (first.phase, second.carried) == ("carried" if reports else "abandoned", reports)
    assert first.detail == f"{reports} reports by the deadline; the minimum was 8."


async def test_a_task_does_not_open_a_round_beyond_its_last(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nmax_rounds = 2")
    for _ in range(2):
        for one in await cohort(harness, 4):
            await send(harness, one, 1.0)
        await harness.coordinator.tick()
    await harness.coordinator.tick()

    assert [one.phase for one in await listed_rounds(harness.coordinator, T)] == ["closed", "closed"]
    assert (await harness.coordinator.tasks.get(T)).state == "finished"

"""A personalize round: evidence in, priors out, with every promise that a training round keeps."""

import contextlib
from typing import Any

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.evaluate_task import publish_version
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_populations, listed_rounds
from tests.unit.coordinator.personalize_task import (
    SPEC,
    TASK,
    assigned,
    check_in,
    evidence,
    evidence_report,
    open_task,
    report_all,
)
from tests.unit.coordinator.test_crash_between_steps import (
    WRITES_OF_A_ROUND,
    ProcessKilled,
    crash_after,
    revive,
)

from keyflock_models.personal.evidence import EVIDENCE_LAYOUT
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import Assignment, Capabilities, Refusal, TaskKind
from keyflock_server.protocol.plans import HeadPlan
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.task_validation import parse_task
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.records import RoundRecord


async def test_a_round_makes_priors_and_no_version(harness: CoordinatorHarness) -> None:
    await open_task(harness)
    claims = await assigned(harness, 4)

    await report_all(harness, claims, evidence())

    closed = await harness.coordinator.tasks.round(RoundId("p-1"))
    assert (closed.phase, closed.counted, closed.weight, closed.result_version) == ("closed", 4, 4.0, None)
    assert closed.figures is not None
    assert closed.figures["gain"] == 0.25
    assert closed.figures["share_helped"] == 1.0
    release = await harness.coordinator.downlink.release(POPULATION)
    assert release.model_version == 0
    assert release.personalisation is not None
    assert release.personalisation.prior.gain_mean == 0.25
    assert release.personalisation.head == HeadPlan(rank=16)
    assert (release.personalisation.round, release.personalisation.phones) == ("p-1", 4)
    (view,) = await listed_populations(harness.coordinator)
    assert view.personalisation is not None
    assert view.personalisation["head"]["rank"] == 16
    assert view.personalisation["candidates"][0]["gain"] == 0.25
    assert {blob.key.split("/")[0] async for blob in harness.blobs.list_blobs()} == {"identity", "versions"}


async def test_a_population_without_such_a_round_releases_no_priors(harness: CoordinatorHarness) -> None:
    assert (await harness.coordinator.downlink.release(POPULATION)).personalisation is None
    assert (await listed_populations(harness.coordinator))[0].personalisation is None


async def test_the_assignment_says_what_to_try_and_what_is_believed(harness: CoordinatorHarness) -> None:
    await open_task(harness)
    device = await harness.enrol()

    first, again = await check_in(harness, device), await check_in(harness, device)

    assert isinstance(first, Assignment)
    assert isinstance(again, Assignment)
    assert first.task_kind is TaskKind.PERSONALIZE
    assert first.layout == EVIDENCE_LAYOUT.digest
    assert first.codec == SPEC.to_wire()
    assert first.personalising is not None
    assert first.personalising.head == HeadPlan(rank=16)
    assert first.personalising.words_needed == 200
    assert (again.id, again.personalising) == (first.id, first.personalising)


async def test_the_next_round_tries_another_head_and_believes_what_the_last_one_found(
    harness: CoordinatorHarness,
) -> None:
    await open_task(harness)
    await report_all(harness, await assigned(harness, 4), evidence())

    answer = await check_in(harness, await harness.enrol())

    assert isinstance(answer, Assignment)
    assert answer.round == "p-2"
    assert answer.personalising is not None
    assert answer.personalising.head == HeadPlan(rank=4)
    assert answer.personalising.prior.gain_mean == 0.25


async def test_phones_personalise_the_version_that_keyboards_serve(harness: CoordinatorHarness) -> None:
    await publish_version(harness)

    await open_task(harness)
    claims = await assigned(harness, 4)

    assert (await harness.coordinator.downlink.release(POPULATION)).model_version == 0
    assert {one.model_version for one in claims} == {0}


async def test_the_head_that_gained_most_is_released(harness: CoordinatorHarness) -> None:
    await open_task(harness)
    await report_all(harness, await assigned(harness, 4), evidence(late_gain=0.25))
    await report_all(harness, await assigned(harness, 4), evidence(late_gain=0.5))

    release = await harness.coordinator.downlink.release(POPULATION)

    assert release.personalisation is not None
    assert release.personalisation.head == HeadPlan(rank=4)


async def test_a_phone_that_does_not_know_the_kind_gets_no_such_work(harness: CoordinatorHarness) -> None:
    await open_task(harness)

    answer = await check_in(harness, await harness.enrol(), Capabilities())

    assert isinstance(answer, Refusal)
    assert answer.reason == "not_eligible"


async def test_a_round_that_too_few_answer_leaves_the_priors(harness: CoordinatorHarness) -> None:
    await open_task(harness, "goal = 8\nminimum = 6\ndeadline_s = 60.0")
    claims = await assigned(harness, 8)
    for one in claims[:5]:
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, evidence_report(evidence(), of=one))

    harness.pass_time(61.0)
    await harness.coordinator.tick()

    assert (await harness.coordinator.tasks.round(RoundId("p-1"))).phase == "abandoned"
    assert (await harness.coordinator.downlink.release(POPULATION)).personalisation is None


async def test_training_and_personalising_go_on_beside_each_other(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4")
    await open_task(harness)
    answers = [await check_in(harness, await harness.enrol()) for _ in range(6 + 4)]
    claims = [harness.claims(answer) for answer in answers if isinstance(answer, Assignment)]
    training = [one for one in claims if one.task == "t"]

    for one in training[:4]:
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, report(constant(1.0), of=one))
    await report_all(harness, [one for one in claims if one.task == "p"], evidence())

    assert (len(training), len(claims)) == (6, 10)
    release = await harness.coordinator.downlink.release(POPULATION)
    assert release.model_version == 1
    assert release.personalisation is not None
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


async def test_a_repeated_check_in_finds_the_task_that_waits_for_the_device(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4")
    await open_task(harness)
    first = {}
    for _ in range(10):
        device = await harness.enrol()
        first[device] = await check_in(harness, device)
    working = {device: one for device, one in first.items() if isinstance(one, Assignment)}
    for answer in working.values():
        if answer.task_kind is TaskKind.TRAIN:
            with contextlib.suppress(ApiError):
                await harness.coordinator.reports.report(
                    harness.claims(answer), report(constant(1.0), of=harness.claims(answer))
                )
    await harness.coordinator.tick()

    # The next round of training is open and hungry; those who personalise are not handed over to it.
    personalising = [one for one, answer in working.items() if answer.task_kind is TaskKind.PERSONALIZE]
    again = [await check_in(harness, device) for device in personalising]

    assert len(personalising) == 4
    assert [one.id for one in again if isinstance(one, Assignment)] == [
        working[device].id for device in personalising
    ]


async def test_a_phone_hears_the_refusal_of_the_task_that_may_want_it_yet(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4")
    await open_task(harness)
    for _ in range(6):
        await check_in(harness, await harness.enrol(), Capabilities())

    answer = await check_in(harness, await harness.enrol(), Capabilities())

    assert isinstance(answer, Refusal)
    assert answer.reason == "round_full"


async def test_an_end_whose_storing_lost_its_answer_is_not_done_twice(harness: CoordinatorHarness) -> None:
    await open_task(harness, "goal = 4\nmax_rounds = 1")
    claims = await assigned(harness, 4)
    store = harness.store.rounds
    store_it = store.publish_personalisation

    async def lose_the_answer(*what: Any) -> RoundRecord:  # noqa: ANN401 - handed on as they came
        await store_it(*what)
        store.publish_personalisation = store_it  # type: ignore[method-assign]  # once only
        raise StorageError("The connection was lost after the commit.")

    store.publish_personalisation = lose_the_answer  # type: ignore[assignment, method-assign]  # the answer gets lost
    await report_all(harness, claims, evidence())
    await harness.coordinator.tick()

    closed = await harness.coordinator.tasks.round(RoundId("p-1"))
    (view,) = await listed_populations(harness.coordinator)
    assert closed.phase == "closed"
    assert view.personalisation is not None
    assert view.personalisation["candidates"][0]["phones"] == 4.0


async def test_two_tasks_of_the_kind_would_move_the_same_priors(harness: CoordinatorHarness) -> None:
    await open_task(harness)

    with pytest.raises(ApiError) as refused:
        await harness.coordinator.tasks.create(
            parse_task(TASK.replace('"p"', '"q"') + "[round]\ngoal = 4\n"), audit=AUDIT
        )

    assert refused.value.code is ProblemCode.CONFLICT


@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
async def test_a_round_survives_a_crash_at_every_write(*, after_write: bool) -> None:
    for writes in range(WRITES_OF_A_ROUND):
        harness = CoordinatorHarness()
        await harness.coordinator.start()
        await harness.create_population()
        await open_task(harness, "goal = 8\nmax_rounds = 2")
        claims = await assigned(harness, 8)

        crash_after(harness, writes, after_write=after_write)
        for one in claims:
            with contextlib.suppress(ApiError, ProcessKilled):
                await harness.coordinator.reports.report(one, evidence_report(evidence(), of=one))
        with contextlib.suppress(ProcessKilled):
            await harness.coordinator.tick()
        revive(harness)
        await harness.coordinator.start()
        await report_all(harness, claims, evidence())

        rounds = await listed_rounds(harness.coordinator, claims[0].task)
        (view,) = await listed_populations(harness.coordinator)
        assert (rounds[0].phase, rounds[0].counted) == (Phase.CLOSED, 8), f"after {writes} writes"
        assert view.personalisation is not None
        assert view.personalisation["candidates"][0]["phones"] == 8.0, f"after {writes} writes"
        await report_all(harness, await assigned(harness, 8), evidence())
        task = await harness.coordinator.tasks.get(claims[0].task)
        assert (task.rounds_committed, task.state) == (2, "finished"), f"after {writes} writes"
        harness.pass_time(3_601.0)
        await harness.coordinator.tick()
        kinds = {blob.key.split("/")[0] async for blob in harness.blobs.list_blobs()}
        assert kinds == {"identity", "versions"}
        await harness.coordinator.stop()


async def test_a_leader_needs_no_jax_for_rounds_that_make_no_version(harness: CoordinatorHarness) -> None:
    await open_task(harness)
    of_evidence = harness.coordinator.has_rounds_to_close()
    await harness.task()
    await harness.coordinator.tick()

    assert not of_evidence
    assert harness.coordinator.has_rounds_to_close()

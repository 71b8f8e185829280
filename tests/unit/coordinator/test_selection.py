"""Who is taken: cohorts, participation limits, what only the phone can check, traffic, and overload."""

import contextlib
from dataclasses import replace

import msgspec
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report, task_spec

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.messages import (
    Assignment,
    Capabilities,
    CheckIn,
    EnrolRequest,
    Failure,
    FailureCause,
    Refusal,
    TaskKind,
)
from keyflock_server.protocol.plans import DeviceRules
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.records import TaskRecord


async def serve_round(
    harness: CoordinatorHarness, devices: list[DeviceIdentity]
) -> list[Assignment | Refusal]:
    """Play one round: all devices check in, and those with work report."""
    answers = [await harness.check_in(device) for device in devices]
    for answer in answers:
        if isinstance(answer, Assignment):
            with contextlib.suppress(ApiError):
                await harness.coordinator.reports.report(
                    harness.claims(answer), report(constant(1.0), of=harness.claims(answer))
                )
    harness.pass_time(60.0)  # when their windows begin
    await harness.coordinator.tick()
    return answers


async def test_only_devices_of_the_cohort_are_taken(harness: CoordinatorHarness) -> None:
    await harness.task(eligibility="cohort = 'tier >= 2 and \"beta\" in tags'")

    fit = await harness.check_in(await harness.enrol(tier=2, tags=("beta",)))
    weak = await harness.check_in(await harness.enrol(tier=1, tags=("beta",)))

    assert isinstance(fit, Assignment)
    assert isinstance(weak, Refusal)
    assert (weak.reason, weak.detail) == ("not_eligible", "The device is not in the task's cohort.")


async def test_a_refresh_changes_what_a_device_is_like(harness: CoordinatorHarness) -> None:
    await harness.task(eligibility="cohort = 'tier == 3'")
    identity = await harness.enrol(tier=1)
    before = await harness.check_in(identity)
    request = EnrolRequest(protocol=1, population=POPULATION, app_build=5, locale="en-US", tier=3)
    renewed = await harness.coordinator.enrolments.enrol(request, identity)
    harness.pass_time(75.0)

    after = await harness.check_in(replace(identity, generation=renewed.generation, tier=renewed.tier))

    assert isinstance(before, Refusal)
    assert isinstance(after, Assignment)


async def test_a_device_takes_part_no_more_often_than_the_task_allows(harness: CoordinatorHarness) -> None:
    await harness.task(
        round="goal = 4\nover_selection = 0.0", eligibility="min_examples = 1\nmax_participations = 2"
    )
    devices = [await harness.enrol() for _ in range(4)]

    taken = [
        sum(isinstance(one, Assignment) for one in await serve_round(harness, devices)) for _ in range(3)
    ]
    refusal = await harness.check_in(devices[0])

    assert taken == [4, 4, 0]
    assert isinstance(refusal, Refusal)
    assert refusal.detail == "This device has taken part 2 times; the most is 2."


async def test_what_only_the_phone_can_check_goes_with_the_assignment_and_is_not_asked(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(
        eligibility="[eligibility.device]\nmin_words_since_training = 500\nrequire_opt_in = true"
    )
    can = Capabilities(device_rules=("min_words_since_training", "require_opt_in"))
    message = CheckIn(protocol=1, app_build=5, locale="en-US", examples=10, capabilities=can)

    answer = await harness.coordinator.check_ins.check_in(await harness.enrol(), message)
    of_an_old_sdk = await harness.check_in(await harness.enrol())

    assert isinstance(answer, Assignment)
    assert answer.device_rules == DeviceRules(min_words_since_training=500, require_opt_in=True)
    assert isinstance(of_an_old_sdk, Refusal)
    assert of_an_old_sdk.detail == "This build of the SDK does not check the rule min_words_since_training."


async def test_an_assignment_that_the_phone_gives_back_leaves_no_cause_in_any_row(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(eligibility="[eligibility.device]\nrequire_opt_in = true")
    message = CheckIn(
        protocol=1,
        app_build=5,
        locale="en-US",
        examples=10,
        capabilities=Capabilities(device_rules=("require_opt_in",)),
    )
    identity = await harness.enrol()
    answer = await harness.coordinator.check_ins.check_in(identity, message)
    assert isinstance(answer, Assignment)

    claims = harness.claims(answer)
    await harness.coordinator.reports.failure(
        claims, Failure(cause=FailureCause.NOT_ELIGIBLE, session_shape="-*")
    )

    row = await harness.store.assignments.get(claims.round, identity.device)
    assert row is not None
    assert (row.state, row.session_shape) == ("failed", "-*")
    assert "not_eligible" not in repr(row)


async def test_tasks_that_are_hungry_share_phones_by_their_traffic(harness: CoordinatorHarness) -> None:
    capable = Capabilities(tasks=("train", "personalize"))
    heavy = task_spec(round="goal = 400\nmin_flush_clients = 4", eligibility="min_examples = 1")
    heavy = msgspec.structs.replace(heavy, task=msgspec.structs.replace(heavy.task, traffic=3.0))
    light = msgspec.structs.replace(
        task_spec("p", round="goal = 400"),
        task=msgspec.structs.replace(task_spec("p").task, kind=TaskKind.PERSONALIZE),
    )
    for spec in (heavy, light):
        await harness.coordinator.tasks.create(spec, audit=AUDIT)
    await harness.coordinator.tick()

    message = CheckIn(protocol=1, app_build=5, locale="en-US", examples=10, capabilities=capable)
    answers = [
        await harness.coordinator.check_ins.check_in(await harness.enrol(), message) for _ in range(400)
    ]

    # Every phone is taken by one of the two. 300 expected of 400 with three quarters, five standard
    # deviations (8.7): a false alarm once in 1.7 million, on ids and a key that are fixed.
    training = sum(isinstance(one, Assignment) and one.task_kind is TaskKind.TRAIN for one in answers)
    assert all(isinstance(one, Assignment) for one in answers)
    assert abs(training - 300) < 44


async def test_a_task_with_nothing_to_give_passes_the_phone_on(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0")
    await harness.store.tasks.add(
        TaskRecord(spec=task_spec("second"), status=TaskStatus.ACTIVE, created_at=harness.now), audit=AUDIT
    )
    harness.coordinator = harness.another_coordinator()
    await harness.coordinator.start()
    await harness.coordinator.tick()

    answers = [await harness.check_in(await harness.enrol()) for _ in range(4 + 6)]

    names = [one.task for one in answers if isinstance(one, Assignment)]
    assert (names.count("t"), names.count("second")) == (4, 6)  # type: ignore[arg-type]  # plain text


async def test_a_server_beyond_its_capacity_answers_from_memory(harness: CoordinatorHarness) -> None:
    spec = await harness.task()
    identity = await harness.enrol()
    harness.load = 3.0

    refusal = await harness.check_in(identity)

    assert isinstance(refusal, Refusal)
    assert refusal.reason == "overloaded"
    assert refusal.return_window.min_s == 4.0 * spec.pacing.min_s


async def test_a_server_beyond_its_capacity_enrols_nobody_new_and_keeps_whom_it_knows(
    harness: CoordinatorHarness,
) -> None:
    identity = await harness.enrol()
    harness.load = 100.0

    with pytest.raises(ApiError) as refused:
        await harness.enrol()
    request = EnrolRequest(protocol=1, population=POPULATION, app_build=6, locale="en-US")
    refreshed = await harness.coordinator.enrolments.enrol(request, identity)

    assert refused.value.code is ProblemCode.OVERLOADED
    assert refused.value.retry is not None
    assert refreshed.device == identity.device


async def test_a_preview_counts_who_is_enrolled_and_who_checked_in_today(harness: CoordinatorHarness) -> None:
    await harness.task()
    for number in range(3):
        await harness.check_in(await harness.enrol(tier=number))
    harness.pass_time(2 * 86_400.0)
    for number in range(4):
        await harness.check_in(await harness.enrol(tier=number))
        await harness.enrol(tier=number)  # and is never seen again
    await harness.coordinator.tick()

    preview = await harness.coordinator.populations.preview_cohort(POPULATION, "tier>=2")

    assert msgspec.to_builtins(preview) == {
        "population": "en",
        "cohort": "tier >= 2",
        "enrolled": 11,
        "matching": 5,
        "active": 4,
        "active_matching": 2,
    }


@pytest.mark.fault("D12")
async def test_a_preview_counts_ghosts_no_further_than_pacing_does(harness: CoordinatorHarness) -> None:
    for _ in range(40):
        await harness.check_in(await harness.enrol())
    await harness.coordinator.tick()
    before_a_task = await harness.coordinator.populations.preview_cohort(POPULATION, "tier == 0")
    await harness.task(round="goal = 4\nover_selection = 0.0")

    preview = await harness.coordinator.populations.preview_cohort(POPULATION, "tier == 0")

    assert (before_a_task.active, before_a_task.active_matching) == (40, 40)
    assert (preview.enrolled, preview.active, preview.active_matching) == (40, 8, 8)


async def test_a_preview_of_no_expression_says_where_it_is_wrong(harness: CoordinatorHarness) -> None:
    with pytest.raises(ApiError) as refused:
        await harness.coordinator.populations.preview_cohort(POPULATION, "tier >= two")

    assert refused.value.code is ProblemCode.INVALID_COHORT
    assert refused.value.detail == "At position 9: expected a number, found a word."

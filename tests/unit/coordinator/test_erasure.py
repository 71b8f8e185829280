"""Forgotten is forgotten: nothing counts any more, in no process, and limits hold for who comes back."""

import asyncio

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.coordinator import Coordinator
from keyflock_server.coordinator.enrolment import EnrolmentResult
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.protocol.messages import Assignment, EnrolRequest, Receipt, Refusal
from keyflock_server.protocol.operator.devices import QuarantineOrder
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import StorageUnavailable

ANN, BOB = "vT0hJ3qkX2m9sY8bQw5Zrg", "Qw5ZrgvT0hJ3qkX2m9sY8b"
DE = PopulationName("de")
DAY_S = 86_400.0
T = TaskName("t")
OUT = QuarantineOrder(reason="A test.", days=10)


async def enrolled(
    harness: CoordinatorHarness,
    user: str | None = None,
    population: PopulationName = POPULATION,
    subject: str | None = None,
) -> DeviceIdentity:
    request = EnrolRequest(protocol=1, population=population, app_build=5, locale="en-US", user=user)
    device: EnrolmentResult = await harness.coordinator.enrolments.enrol(request, None, subject=subject)
    return DeviceIdentity(device.device, device.population, device.generation)


async def send(coordinator: Coordinator, claims: AssignmentClaims) -> Receipt | ProblemCode:
    try:
        return await coordinator.reports.report(claims, report(constant(1.0), of=claims))
    except ApiError as refused:
        return refused.code


async def forget_user(harness: CoordinatorHarness, identity: DeviceIdentity, user: str | None) -> int:
    scope = await harness.coordinator.erasure.targets(identity, user, is_whole_user=True)
    return (await harness.coordinator.erasure.forget(scope.devices)).devices


async def test_a_quarantine_holds_while_the_store_cannot_forget_the_device(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone, quarantines = await harness.enrol(), harness.coordinator.quarantines
    await quarantines.quarantine(phone.device, QuarantineOrder(reason="A test."), audit=AUDIT)

    async def away(*_: object, **_options: object) -> int:
        raise StorageUnavailable("The database cannot be used now.")

    monkeypatch.setattr(harness.store.devices, "forget", away)
    with pytest.raises(StorageUnavailable):
        await harness.forget(phone)

    with pytest.raises(ApiError) as refused:
        quarantines.check(phone.device)
    assert refused.value.code is ProblemCode.QUARANTINED


@pytest.mark.fault("D5")
async def test_a_report_that_comes_after_its_phone_was_forgotten_is_not_counted(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0")
    phones = [await harness.enrol() for _ in range(4)]
    claims = [await harness.assigned(phone) for phone in phones]

    await harness.forget(phones[0])
    answer = await send(harness.coordinator, claims[0])
    for one in claims[1:]:
        await send(harness.coordinator, one)
    await harness.coordinator.tick()

    assert answer is ProblemCode.TOKEN_INVALID
    (current,) = await listed_rounds(harness.coordinator, T)
    assert (current.phase, current.counted, current.failed) == ("collecting", 0, 1)


@pytest.mark.fault("D5")
async def test_a_forgotten_phones_slot_is_free_again_in_the_same_round(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0")
    phones = [await harness.enrol() for _ in range(5)]
    harness.pass_time(120)  # by now everyone is in the sample
    for phone in phones[:4]:
        await harness.assigned(phone)
    full = await harness.check_in(phones[4])

    await harness.forget(phones[0])
    await harness.coordinator.tick()
    assert isinstance(full, Refusal)
    harness.pass_time(full.return_window.min_s)
    free = await harness.check_in(phones[4])

    assert isinstance(free, Assignment)
    assert free.round == "t-1"


@pytest.mark.fault("D5")
async def test_a_report_that_waits_for_its_batch_is_taken_out_and_its_phone_hears_so() -> None:
    harness = CoordinatorHarness(ack_wait_s=60.0)
    await harness.coordinator.start()
    await harness.create_population()
    await harness.task(round="goal = 4")
    phones = [await harness.enrol() for _ in range(5)]
    claims = [await harness.assigned(phone) for phone in phones]
    waiting = asyncio.create_task(send(harness.coordinator, claims[0]))
    await until_summed(harness.coordinator, 1)

    await harness.forget(phones[0])
    answer = await waiting
    others = await asyncio.gather(*(send(harness.coordinator, one) for one in claims[1:]))
    await harness.coordinator.tick()

    assert answer is ProblemCode.TOKEN_INVALID
    assert all(isinstance(one, Receipt) for one in others)
    (closed, *_) = await listed_rounds(harness.coordinator, T)
    assert (closed.phase, closed.counted) == ("closed", 4)
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))
    await harness.coordinator.stop()


@pytest.mark.fault("D5")
async def test_a_report_that_waits_at_another_replica_is_not_counted_and_its_phone_hears_why() -> None:
    harness = CoordinatorHarness(ack_wait_s=60.0)
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    for replica in (here, there):
        await replica.start()
    await harness.create_population()
    await harness.task(round="goal = 8\nover_selection = 0.25")
    await there.tick()
    phones = [await harness.enrol() for _ in range(9)]
    claims = [await harness.assigned(phone) for phone in phones]
    waiting = asyncio.create_task(send(there, claims[0]))
    await until_summed(there, 1)

    await harness.forget(phones[0])
    sending = []
    for one in claims[1:]:
        sending.append(asyncio.create_task(send(there, one)))
        for _ in range(10):  # one after the other: each is summed, and flushed where it makes a batch
            await there.tick()
    answer, others = await waiting, await asyncio.gather(*sending)
    for replica in (here, there):
        await replica.tick()

    assert answer is ProblemCode.TOKEN_INVALID
    assert all(isinstance(one, Receipt) for one in others)
    (closed, *_) = await listed_rounds(here, T)
    assert (closed.phase, closed.counted) == ("closed", 8)
    for replica in (here, there):
        await replica.stop()


@pytest.mark.fault("D5")
async def test_another_replica_refuses_a_forgotten_phone_within_the_bound(
    harness: CoordinatorHarness,
) -> None:
    there = harness.another_coordinator("b")
    await there.start()
    phone = await harness.enrol()

    await harness.forget(phone)
    harness.pass_time(2)
    await there.tick()

    with pytest.raises(ApiError) as refused:
        there._deps.revocations.check(phone, harness.now)
    assert refused.value.code is ProblemCode.TOKEN_INVALID
    await there.stop()


@pytest.mark.fault("D5")
async def test_a_forgotten_phone_is_not_there_to_be_forgotten_again(harness: CoordinatorHarness) -> None:
    phone = await enrolled(harness, ANN)
    await forget_user(harness, phone, ANN)

    for user in (None, ANN):
        with pytest.raises(ApiError) as refused:
            await harness.coordinator.erasure.targets(phone, user, is_whole_user=user is not None)
        assert refused.value.code is ProblemCode.TOKEN_INVALID


@pytest.mark.fault("D4")
async def test_a_phone_forgets_itself_and_nobody_elses_phone(harness: CoordinatorHarness) -> None:
    phone, sibling, other = (
        await enrolled(harness, ANN),
        await enrolled(harness, ANN),
        await enrolled(harness, BOB),
    )

    gone = await harness.forget(phone)

    assert gone == 1
    rows = [await harness.store.devices.get(one.device) for one in (phone, sibling, other)]
    assert [row is None for row in rows] == [True, False, False]


@pytest.mark.fault("D4")
async def test_who_proves_the_user_forgets_its_devices_in_every_population(
    harness: CoordinatorHarness,
) -> None:
    await harness.create_other_population(DE)
    phone, tablet = await enrolled(harness, ANN), await enrolled(harness, ANN, DE)
    other = await enrolled(harness, BOB, DE)

    scope = await harness.coordinator.erasure.targets(phone, ANN, is_whole_user=True)
    gone = await forget_user(harness, phone, ANN)

    assert gone == 2
    # The user's own model in each, and what each phone stored before it named the user.
    assert {name: len(owners) for name, owners in scope.owners.items()} == {POPULATION: 2, DE: 2}
    assert await harness.store.devices.get(tablet.device) is None
    assert await harness.store.devices.get(other.device) is not None


@pytest.mark.fault("D4")
@pytest.mark.parametrize(
    ("proof", "code"),
    [
        (None, ProblemCode.USER_NOT_PROVEN),
        ("", ProblemCode.USER_NOT_PROVEN),
        ("alice@example.com", ProblemCode.USER_NOT_PROVEN),
        (BOB, ProblemCode.FORBIDDEN),
    ],
)
async def test_who_does_not_prove_the_user_forgets_nothing(
    harness: CoordinatorHarness, proof: str | None, code: ProblemCode
) -> None:
    phone, _, _ = await enrolled(harness, ANN), await enrolled(harness, ANN), await enrolled(harness, BOB)

    with pytest.raises(ApiError) as refused:
        await forget_user(harness, phone, proof)

    assert refused.value.code is code
    assert await harness.store.devices.count(POPULATION) == 3


@pytest.mark.fault("D4")
async def test_a_device_without_a_user_forgets_no_users_devices(harness: CoordinatorHarness) -> None:
    phone, _ = await harness.enrol(), await enrolled(harness, ANN)

    with pytest.raises(ApiError) as refused:
        await forget_user(harness, phone, ANN)

    assert refused.value.code is ProblemCode.FORBIDDEN
    assert await harness.store.devices.count(POPULATION) == 2


@pytest.mark.fault("D5")
@pytest.mark.parametrize(
    ("user", "subject"), [(ANN, None), (None, "installation-1"), (BOB, "installation-1")]
)
async def test_a_quarantine_outlives_the_device(
    harness: CoordinatorHarness, user: str | None, subject: str | None
) -> None:
    await harness.task()
    phone = await enrolled(harness, user, subject=subject)
    await harness.coordinator.quarantines.quarantine(phone.device, OUT, audit=AUDIT)

    await harness.forget(phone)
    again = await enrolled(harness, user, subject=subject)
    answer = await harness.check_in(again)
    stranger = await harness.check_in(await enrolled(harness, BOB[::-1], subject="installation-2"))

    assert isinstance(answer, Refusal)
    assert answer.reason == "quarantined"
    view = await harness.coordinator.quarantines.device(again.device)
    assert (view.is_quarantined, view.quarantines) == (True, 1)
    assert isinstance(stranger, Assignment)
    released = await harness.coordinator.quarantines.release(again.device, audit=AUDIT)
    assert not released.is_quarantined


async def named(
    harness: CoordinatorHarness, device: DeviceIdentity, user: str, proof: str | None = None
) -> DeviceIdentity:
    """Refresh the device's token and name a user; return the device."""
    request = EnrolRequest(protocol=1, population=POPULATION, app_build=5, locale="en-US", user=user)
    after = await harness.coordinator.enrolments.enrol(request, device, user_proof=proof)
    return DeviceIdentity(after.device, after.population, after.generation)


@pytest.mark.fault("D5")
async def test_to_name_the_user_only_after_enrolling_is_no_way_round_a_quarantine(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    phone = await enrolled(harness, ANN)
    await harness.coordinator.quarantines.quarantine(phone.device, OUT, audit=AUDIT)
    await harness.forget(phone)

    again = await named(harness, await enrolled(harness), ANN)
    answer = await harness.check_in(again)

    assert isinstance(answer, Refusal)
    assert answer.reason == "quarantined"


@pytest.mark.fault("D5")
async def test_to_leave_the_user_before_being_forgotten_is_no_way_round_a_quarantine(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    phone = await enrolled(harness, ANN)
    await harness.coordinator.quarantines.quarantine(phone.device, OUT, audit=AUDIT)

    renamed = await named(harness, phone, BOB, ANN)
    await harness.forget(renamed)
    answers = [await harness.check_in(await enrolled(harness, user)) for user in (ANN, BOB)]

    assert [getattr(answer, "reason", "") for answer in answers] == ["quarantined", "quarantined"]


@pytest.mark.fault("D5")
async def test_an_installation_that_enrols_anew_without_being_forgotten_is_kept_out_too(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    phone = await enrolled(harness, subject="installation-1")
    await harness.coordinator.quarantines.quarantine(phone.device, OUT, audit=AUDIT)

    answer = await harness.check_in(await enrolled(harness, subject="installation-1"))

    assert isinstance(answer, Refusal)
    assert answer.reason == "quarantined"


@pytest.mark.fault("D5")
async def test_limits_on_taking_part_outlive_the_device_and_each_that_follows(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4", eligibility="max_participations = 1")
    phones = [await enrolled(harness, ANN if number == 0 else None) for number in range(4)]
    claims = [await harness.assigned(phone) for phone in phones]
    for one in claims:
        await send(harness.coordinator, one)
    await harness.coordinator.tick()

    phone, answers = phones[0], []
    for _ in range(3):
        harness.pass_time(DAY_S)
        await harness.forget(phone)
        phone = await enrolled(harness, ANN)
        answers.append(await harness.check_in(phone))

    assert [getattr(answer, "reason", "") for answer in answers] == ["not_eligible"] * 3
    assert all("taken part 1 times" in answer.detail for answer in answers if isinstance(answer, Refusal))


@pytest.mark.fault("D5")
async def test_the_time_between_contributions_outlives_the_device(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4", eligibility="min_separation_s = 86400.0")
    phones = [await enrolled(harness, ANN if number == 0 else None) for number in range(4)]
    claims = [await harness.assigned(phone) for phone in phones]
    for one in claims:
        await send(harness.coordinator, one)
    await harness.coordinator.tick()
    harness.pass_time(400)

    await harness.forget(phones[0])
    early = await harness.check_in(await enrolled(harness, ANN))
    harness.pass_time(DAY_S)
    for _ in range(2):  # the round that nobody came to ends, and another opens
        await harness.coordinator.tick()
    late = await harness.check_in(await enrolled(harness, ANN))

    assert isinstance(early, Refusal)
    assert early.reason == "too_soon"
    assert isinstance(late, Assignment)


@pytest.mark.fault("D5")
async def test_nothing_outlives_a_device_of_which_nothing_must_hold(harness: CoordinatorHarness) -> None:
    await harness.task(eligibility="max_participations = 3\nmin_separation_s = 86400.0")
    phone = await enrolled(harness, ANN, subject="installation-1")
    row = await harness.store.devices.get(phone.device)
    assert row is not None

    await harness.forget(phone)

    rows = harness.store.tombstones._rows.tombstones  # type: ignore[attr-defined]  # the fake's own
    assert rows == {}


@pytest.mark.fault("D5")
async def test_a_tombstone_says_nothing_of_the_phone_and_goes_when_it_holds_no_longer(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    phone = await enrolled(harness, ANN, subject="installation-1")
    await harness.coordinator.quarantines.quarantine(phone.device, OUT, audit=AUDIT)
    row = await harness.store.devices.get(phone.device)
    assert row is not None

    await harness.forget(phone)
    rows = harness.store.tombstones._rows.tombstones  # type: ignore[attr-defined]  # the fake's own
    held = dict(rows)
    harness.pass_time(11 * DAY_S)
    await harness.coordinator.tick()

    assert len(held) == 2
    for secret in (ANN, phone.device, "installation-1", row.user_digest, row.subject_digest, "en-US"):
        assert str(secret) not in repr(held)
    assert rows == {}


async def until_summed(coordinator: Coordinator, reports: int) -> None:
    """Wait until this many reports are in the open round's batch."""
    states = coordinator.registry._states
    while (opened := states[T].open_round) is None or opened.batch.sum.size.reports < reports:  # noqa: ASYNC110 - no event is
        await asyncio.sleep(0)


async def test_a_forgotten_phone_is_refused_at_once_by_the_process_that_forgot_it(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(eligibility="min_examples = 5")
    phone = await harness.enrol()
    told_to_wait = await harness.check_in(phone, examples=1)

    await harness.forget(phone)

    assert isinstance(told_to_wait, Refusal)
    with pytest.raises(ApiError) as by_token:
        harness.coordinator._deps.revocations.check(phone, harness.now)
    with pytest.raises(ApiError) as by_row:  # and it is not told to wait from memory
        await harness.check_in(phone)
    assert by_token.value.code is by_row.value.code is ProblemCode.TOKEN_INVALID


async def test_a_report_that_cannot_be_taken_out_of_its_batch_is_an_error_that_is_told(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 8")
    phone = await harness.enrol()
    await send(harness.coordinator, await harness.assigned(phone))
    opened = harness.coordinator.registry._states[T].open_round
    assert opened is not None

    def out_of_memory(*_: object) -> None:
        raise MemoryError("in the sum")

    monkeypatch.setattr(opened.batch.sum, "drop", out_of_memory)

    with pytest.raises(MemoryError):
        await harness.forget(phone)


async def test_a_round_that_ends_while_a_forget_waits_for_it_has_answered_its_reports(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8")
    phone = await harness.enrol()
    claims = await harness.assigned(phone)
    await send(harness.coordinator, claims)
    state = harness.coordinator.registry._states[T]
    opened = state.open_round
    assert opened is not None

    async with state.round_lock:  # a closing is under way
        forgetting = asyncio.create_task(harness.forget(phone))
        while claims.assignment in opened.members:  # noqa: ASYNC110 - no event is
            await asyncio.sleep(0)
        state.open_round = None

    assert await forgetting == 1

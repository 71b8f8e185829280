"""Forgotten is forgotten: nothing counts any more, in no process, and limits hold for who comes back."""

import asyncio

import numpy as np
import pytest
from tests.unit.coordinator.town import POPULATION, Town, constant, report

from keyflock_server.coordinator import Coordinator
from keyflock_server.coordinator.enrolment import EnrolledDevice
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.protocol.messages import Assignment, EnrolRequest, Receipt, Refusal
from keyflock_server.protocol.operator import QuarantineOrder
from keyflock_server.protocol.problems import ProblemCode, Refused

ANN, BOB = "vT0hJ3qkX2m9sY8bQw5Zrg", "Qw5ZrgvT0hJ3qkX2m9sY8b"
DE = PopulationName("de")
DAY_S = 86_400.0
T = TaskName("t")


async def enrolled(
    town: Town, user: str | None = None, population: PopulationName = POPULATION, subject: str | None = None
) -> DeviceIdentity:
    request = EnrolRequest(protocol=1, population=population, app_build=5, locale="en-US", user=user)
    device: EnrolledDevice = await town.coordinator.enrol(request, None, subject=subject)
    return DeviceIdentity(device.device, device.population, device.generation)


async def send(coordinator: Coordinator, claims: AssignmentClaims) -> Receipt | ProblemCode:
    try:
        return await coordinator.report(claims, report(constant(1.0), of=claims))
    except Refused as refused:
        return refused.code


async def forget_user(town: Town, identity: DeviceIdentity, user: str | None) -> int:
    scope = await town.coordinator.erasure_scope(identity, user, is_whole_user=True)
    return (await town.coordinator.forget(scope.devices)).devices


@pytest.mark.fault("D5")
async def test_a_report_that_comes_after_its_phone_was_forgotten_is_not_counted(town: Town) -> None:
    await town.task(round="goal = 4\nover_selection = 0.0")
    phones = [await town.enrol() for _ in range(4)]
    claims = [await town.assigned(phone) for phone in phones]

    await town.forget(phones[0])
    answer = await send(town.coordinator, claims[0])
    for one in claims[1:]:
        await send(town.coordinator, one)
    await town.coordinator.tick()

    assert answer is ProblemCode.TOKEN_INVALID
    (current,) = await town.coordinator.rounds(T)
    assert (current.phase, current.counted, current.failed) == ("collecting", 0, 1)


@pytest.mark.fault("D5")
async def test_a_forgotten_phones_slot_is_free_again_in_the_same_round(town: Town) -> None:
    await town.task(round="goal = 4\nover_selection = 0.0")
    phones = [await town.enrol() for _ in range(5)]
    town.pass_time(120)  # by now everyone is in the sample
    for phone in phones[:4]:
        await town.assigned(phone)
    full = await town.check_in(phones[4])

    await town.forget(phones[0])
    await town.coordinator.tick()
    assert isinstance(full, Refusal)
    town.pass_time(full.return_window.min_s)
    free = await town.check_in(phones[4])

    assert isinstance(free, Assignment)
    assert free.round == "t-1"


@pytest.mark.fault("D5")
async def test_a_report_that_waits_for_its_batch_is_taken_out_and_its_phone_hears_so() -> None:
    town = Town(ack_wait_s=60.0)
    await town.coordinator.start()
    await town.found()
    await town.task(round="goal = 4")
    phones = [await town.enrol() for _ in range(5)]
    claims = [await town.assigned(phone) for phone in phones]
    waiting = asyncio.create_task(send(town.coordinator, claims[0]))
    await until_summed(town.coordinator, 1)

    await town.forget(phones[0])
    answer = await waiting
    others = await asyncio.gather(*(send(town.coordinator, one) for one in claims[1:]))
    await town.coordinator.tick()

    assert answer is ProblemCode.TOKEN_INVALID
    assert all(isinstance(one, Receipt) for one in others)
    (closed, *_) = await town.coordinator.rounds(T)
    assert (closed.phase, closed.counted) == ("closed", 4)
    np.testing.assert_array_equal(await town.model(1), constant(-1.0))
    await town.coordinator.stop()


@pytest.mark.fault("D5")
async def test_a_report_that_waits_at_another_replica_is_not_counted_and_its_phone_hears_why() -> None:
    town = Town(ack_wait_s=60.0)
    here, there = (town.another_coordinator(name) for name in ("a", "b"))
    town.coordinator = here
    for replica in (here, there):
        await replica.start()
    await town.found()
    await town.task(round="goal = 8\nover_selection = 0.25")
    await there.tick()
    phones = [await town.enrol() for _ in range(9)]
    claims = [await town.assigned(phone) for phone in phones]
    waiting = asyncio.create_task(send(there, claims[0]))
    await until_summed(there, 1)

    await town.forget(phones[0])
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
    (closed, *_) = await here.rounds(T)
    assert (closed.phase, closed.counted) == ("closed", 8)
    for replica in (here, there):
        await replica.stop()


@pytest.mark.fault("D5")
async def test_another_replica_refuses_a_forgotten_phone_within_the_bound(town: Town) -> None:
    there = town.another_coordinator("b")
    await there.start()
    phone = await town.enrol()

    await town.forget(phone)
    town.pass_time(2)
    await there.tick()

    with pytest.raises(Refused) as refused:
        there._world.revocations.check(phone, town.now)
    assert refused.value.code is ProblemCode.TOKEN_INVALID
    await there.stop()


@pytest.mark.fault("D5")
async def test_a_forgotten_phone_is_not_there_to_be_forgotten_again(town: Town) -> None:
    phone = await enrolled(town, ANN)
    await forget_user(town, phone, ANN)

    for user in (None, ANN):
        with pytest.raises(Refused) as refused:
            await town.coordinator.erasure_scope(phone, user, is_whole_user=user is not None)
        assert refused.value.code is ProblemCode.TOKEN_INVALID


@pytest.mark.fault("D4")
async def test_a_phone_forgets_itself_and_nobody_elses_phone(town: Town) -> None:
    phone, sibling, other = await enrolled(town, ANN), await enrolled(town, ANN), await enrolled(town, BOB)

    gone = await town.forget(phone)

    assert gone == 1
    rows = [await town.store.devices.get(one.device) for one in (phone, sibling, other)]
    assert [row is None for row in rows] == [True, False, False]


@pytest.mark.fault("D4")
async def test_who_proves_the_user_forgets_its_devices_in_every_population(town: Town) -> None:
    await town.found_another(DE)
    phone, tablet = await enrolled(town, ANN), await enrolled(town, ANN, DE)
    other = await enrolled(town, BOB, DE)

    scope = await town.coordinator.erasure_scope(phone, ANN, is_whole_user=True)
    gone = await forget_user(town, phone, ANN)

    assert gone == 2
    # The user's own model in each, and what each phone stored before it named the user.
    assert {name: len(owners) for name, owners in scope.owners.items()} == {POPULATION: 2, DE: 2}
    assert await town.store.devices.get(tablet.device) is None
    assert await town.store.devices.get(other.device) is not None


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
    town: Town, proof: str | None, code: ProblemCode
) -> None:
    phone, _, _ = await enrolled(town, ANN), await enrolled(town, ANN), await enrolled(town, BOB)

    with pytest.raises(Refused) as refused:
        await forget_user(town, phone, proof)

    assert refused.value.code is code
    assert await town.store.devices.count(POPULATION) == 3


@pytest.mark.fault("D4")
async def test_a_device_without_a_user_forgets_no_users_devices(town: Town) -> None:
    phone, _ = await town.enrol(), await enrolled(town, ANN)

    with pytest.raises(Refused) as refused:
        await forget_user(town, phone, ANN)

    assert refused.value.code is ProblemCode.FORBIDDEN
    assert await town.store.devices.count(POPULATION) == 2


@pytest.mark.fault("D5")
@pytest.mark.parametrize(
    ("user", "subject"), [(ANN, None), (None, "installation-1"), (BOB, "installation-1")]
)
async def test_a_quarantine_outlives_the_device(town: Town, user: str | None, subject: str | None) -> None:
    await town.task()
    phone = await enrolled(town, user, subject=subject)
    await town.coordinator.quarantine_device(phone.device, QuarantineOrder(reason="A test.", days=10))

    await town.forget(phone)
    again = await enrolled(town, user, subject=subject)
    answer = await town.check_in(again)
    stranger = await town.check_in(await enrolled(town, BOB[::-1], subject="installation-2"))

    assert isinstance(answer, Refusal)
    assert answer.reason == "quarantined"
    view = await town.coordinator.device(again.device)
    assert (view.is_quarantined, view.quarantines) == (True, 1)
    assert isinstance(stranger, Assignment)
    released = await town.coordinator.release_device(again.device)
    assert not released.is_quarantined


async def named(town: Town, device: DeviceIdentity, user: str, proof: str | None = None) -> DeviceIdentity:
    """The device after a refresh that names a user."""
    request = EnrolRequest(protocol=1, population=POPULATION, app_build=5, locale="en-US", user=user)
    after = await town.coordinator.enrol(request, device, user_proof=proof)
    return DeviceIdentity(after.device, after.population, after.generation)


@pytest.mark.fault("D5")
async def test_to_name_the_user_only_after_enrolling_is_no_way_round_a_quarantine(town: Town) -> None:
    await town.task()
    phone = await enrolled(town, ANN)
    await town.coordinator.quarantine_device(phone.device, QuarantineOrder(reason="A test.", days=10))
    await town.forget(phone)

    again = await named(town, await enrolled(town), ANN)
    answer = await town.check_in(again)

    assert isinstance(answer, Refusal)
    assert answer.reason == "quarantined"


@pytest.mark.fault("D5")
async def test_to_leave_the_user_before_being_forgotten_is_no_way_round_a_quarantine(town: Town) -> None:
    await town.task()
    phone = await enrolled(town, ANN)
    await town.coordinator.quarantine_device(phone.device, QuarantineOrder(reason="A test.", days=10))

    renamed = await named(town, phone, BOB, ANN)
    await town.forget(renamed)
    answers = [await town.check_in(await enrolled(town, user)) for user in (ANN, BOB)]

    assert [getattr(answer, "reason", "") for answer in answers] == ["quarantined", "quarantined"]


@pytest.mark.fault("D5")
async def test_an_installation_that_enrols_anew_without_being_forgotten_is_kept_out_too(town: Town) -> None:
    await town.task()
    phone = await enrolled(town, subject="installation-1")
    await town.coordinator.quarantine_device(phone.device, QuarantineOrder(reason="A test.", days=10))

    answer = await town.check_in(await enrolled(town, subject="installation-1"))

    assert isinstance(answer, Refusal)
    assert answer.reason == "quarantined"


@pytest.mark.fault("D5")
async def test_limits_on_taking_part_outlive_the_device_and_each_that_follows(town: Town) -> None:
    await town.task(round="goal = 4", eligibility="max_participations = 1")
    phones = [await enrolled(town, ANN if number == 0 else None) for number in range(4)]
    claims = [await town.assigned(phone) for phone in phones]
    for one in claims:
        await send(town.coordinator, one)
    await town.coordinator.tick()

    phone, answers = phones[0], []
    for _ in range(3):
        town.pass_time(DAY_S)
        await town.forget(phone)
        phone = await enrolled(town, ANN)
        answers.append(await town.check_in(phone))

    assert [getattr(answer, "reason", "") for answer in answers] == ["not_eligible"] * 3
    assert all("taken part 1 times" in answer.detail for answer in answers if isinstance(answer, Refusal))


@pytest.mark.fault("D5")
async def test_the_time_between_contributions_outlives_the_device(town: Town) -> None:
    await town.task(round="goal = 4", eligibility="min_separation_s = 86400.0")
    phones = [await enrolled(town, ANN if number == 0 else None) for number in range(4)]
    claims = [await town.assigned(phone) for phone in phones]
    for one in claims:
        await send(town.coordinator, one)
    await town.coordinator.tick()
    town.pass_time(400)

    await town.forget(phones[0])
    early = await town.check_in(await enrolled(town, ANN))
    town.pass_time(DAY_S)
    for _ in range(2):  # the round that nobody came to ends, and another opens
        await town.coordinator.tick()
    late = await town.check_in(await enrolled(town, ANN))

    assert isinstance(early, Refusal)
    assert early.reason == "too_soon"
    assert isinstance(late, Assignment)


@pytest.mark.fault("D5")
async def test_nothing_outlives_a_device_of_which_nothing_must_hold(town: Town) -> None:
    await town.task(eligibility="max_participations = 3\nmin_separation_s = 86400.0")
    phone = await enrolled(town, ANN, subject="installation-1")
    row = await town.store.devices.get(phone.device)
    assert row is not None

    await town.forget(phone)

    rows = town.store.tombstones._rows.tombstones  # type: ignore[attr-defined]  # the fake's own
    assert rows == {}


@pytest.mark.fault("D5")
async def test_a_tombstone_says_nothing_of_the_phone_and_goes_when_it_holds_no_longer(town: Town) -> None:
    await town.task()
    phone = await enrolled(town, ANN, subject="installation-1")
    await town.coordinator.quarantine_device(phone.device, QuarantineOrder(reason="A test.", days=10))
    row = await town.store.devices.get(phone.device)
    assert row is not None

    await town.forget(phone)
    rows = town.store.tombstones._rows.tombstones  # type: ignore[attr-defined]  # the fake's own
    held = dict(rows)
    town.pass_time(11 * DAY_S)
    await town.coordinator.tick()

    assert len(held) == 2
    for said in (ANN, phone.device, "installation-1", row.user_digest, row.subject_digest, "en-US"):
        assert str(said) not in repr(held)
    assert rows == {}


async def until_summed(coordinator: Coordinator, reports: int) -> None:
    """Until so many reports wait in the open round's batch."""
    while (opened := coordinator._desks[T].open) is None or opened.batch.sum.size.reports < reports:  # noqa: ASYNC110 - no event is
        await asyncio.sleep(0)

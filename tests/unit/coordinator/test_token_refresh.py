"""A refresh ends the token before it: after a short grace, for every process, and for good."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness

from keyflock_server.coordinator import Coordinator
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.revocations import Revocations
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import EnrolRequest
from keyflock_server.protocol.operator.devices import QuarantineOrder
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.records import DeviceRecord, RevocationRecord

pytestmark = pytest.mark.fault("D6")

ANN, BOB = "vT0hJ3qkX2m9sY8bQw5Zrg", "Qw5ZrgvT0hJ3qkX2m9sY8b"
DAY_S = 86_400.0


def request(user: str | None = None) -> EnrolRequest:
    return EnrolRequest(protocol=1, population=POPULATION, app_build=6, locale="en-US", user=user)


async def refreshed(
    harness: CoordinatorHarness,
    shown: DeviceIdentity,
    user: str | None = None,
    proof: str | None = None,
    coordinator: Coordinator | None = None,
) -> DeviceIdentity:
    """Return the identity in the new token."""
    asked = coordinator or harness.coordinator
    enrolled = await asked.enrolments.enrol(request(user), shown, user_proof=proof)
    return DeviceIdentity(enrolled.device, enrolled.population, enrolled.generation)


async def refusal(harness: CoordinatorHarness, shown: DeviceIdentity, **options: str) -> ProblemCode:
    with pytest.raises(ApiError) as refused:
        await refreshed(harness, shown, **options)  # type: ignore[arg-type]  # of the two that are strings
    return refused.value.code


def revocations(coordinator: Coordinator) -> Revocations:
    """Return the revocations of the coordinator's process."""
    return coordinator._deps.revocations


def is_good(
    harness: CoordinatorHarness, identity: DeviceIdentity, coordinator: Coordinator | None = None
) -> bool:
    try:
        revocations(coordinator or harness.coordinator).check(identity, harness.now)
    except ApiError as refused:
        return refused.code is not ProblemCode.TOKEN_INVALID
    return True


async def test_the_old_token_is_good_for_a_minute_and_then_for_nothing(harness: CoordinatorHarness) -> None:
    old = await harness.enrol()

    new = await refreshed(harness, old)
    within = is_good(harness, old)
    harness.pass_time(60)

    assert (new.device, new.generation) == (old.device, 1)
    assert (within, is_good(harness, old), is_good(harness, new)) == (True, False, True)
    assert await refusal(harness, old) is ProblemCode.TOKEN_INVALID


async def test_a_phone_that_lost_the_answer_gets_the_same_generation_again(
    harness: CoordinatorHarness,
) -> None:
    old = await harness.enrol()

    first = await refreshed(harness, old)
    harness.pass_time(59)
    second = await refreshed(harness, old)

    assert first == second
    assert is_good(harness, second)


async def test_who_uses_the_new_token_to_refresh_ends_the_old_ones_grace(harness: CoordinatorHarness) -> None:
    oldest = await harness.enrol()
    old = await refreshed(harness, oldest)

    new = await refreshed(harness, old)

    assert [is_good(harness, one) for one in (oldest, old, new)] == [False, True, True]
    assert await refusal(harness, oldest) is ProblemCode.TOKEN_INVALID


async def test_refreshing_over_and_over_keeps_no_old_token_alive(harness: CoordinatorHarness) -> None:
    identities = [await harness.enrol()]

    for _ in range(5):
        identities.append(await refreshed(harness, identities[-1]))
        harness.pass_time(30)

    assert [is_good(harness, one) for one in identities] == [False, False, False, False, True, True]


async def test_refreshes_at_once_agree_on_one_generation(harness: CoordinatorHarness) -> None:
    old = await harness.enrol()
    replicas = [harness.another_coordinator(name) for name in ("a", "b")]
    for replica in replicas:
        await replica.start()

    new = await asyncio.gather(
        *(refreshed(harness, old, coordinator=replicas[number % 2]) for number in range(6))
    )

    assert set(new) == {replace(old, generation=1, is_described=False)}
    for replica in replicas:
        await replica.stop()


async def test_another_process_learns_of_a_refresh_within_the_bound(harness: CoordinatorHarness) -> None:
    here, there = harness.another_coordinator("a"), harness.another_coordinator("b")
    for one in (here, there):
        await one.start()
    old = await harness.enrol()

    await refreshed(harness, old, coordinator=here)
    again = await refreshed(harness, old, coordinator=there)
    harness.pass_time(60)
    await there.tick()

    assert again.generation == 1
    assert not is_good(harness, old, there)
    for one in (here, there):
        await one.stop()


async def test_a_restart_remembers_what_is_void(harness: CoordinatorHarness) -> None:
    old = await harness.enrol()
    await refreshed(harness, old)
    harness.pass_time(60)

    restarted = harness.another_coordinator()
    await restarted.start()

    assert not is_good(harness, old, restarted)
    await restarted.stop()


async def test_what_is_void_is_forgotten_when_it_has_expired_anyway(harness: CoordinatorHarness) -> None:
    old = await harness.enrol()
    new = await refreshed(harness, old)
    digest = revocations(harness.coordinator).digest(old.device)

    harness.pass_time(DAY_S + 200)
    await harness.coordinator.tick()

    assert len(revocations(harness.coordinator)) == 0
    assert await harness.store.revocations.get(digest) is None
    # A drawer is no way back: the device's row knows its generation.
    assert await refusal(harness, old) is ProblemCode.TOKEN_INVALID
    assert (await refreshed(harness, new)).generation == 2


async def test_a_phone_goes_on_over_a_database_that_was_restored_from_a_backup(
    harness: CoordinatorHarness,
) -> None:
    old = await harness.enrol()
    backup = await harness.store.devices.get(old.device)
    assert backup is not None
    newest = await refreshed(harness, await refreshed(harness, old))

    harness.store.devices._rows.devices[old.device] = backup  # type: ignore[attr-defined]  # the fake's own
    after = await refreshed(harness, newest)

    assert after.generation == 3
    assert await refusal(harness, old) is ProblemCode.TOKEN_INVALID


async def test_a_revoked_device_can_neither_call_nor_refresh_and_stays_in_the_list(
    harness: CoordinatorHarness,
) -> None:
    oldest = await harness.enrol()
    old = await refreshed(harness, oldest)

    await harness.coordinator.revocations.revoke(old.device, audit=AUDIT)

    assert (await harness.coordinator.quarantines.device(old.device)).id == old.device
    assert [is_good(harness, one) for one in (oldest, old)] == [False, False]
    assert [await refusal(harness, one) for one in (oldest, old)] == [ProblemCode.TOKEN_INVALID] * 2
    harness.pass_time(40 * DAY_S)
    await harness.coordinator.tick()
    assert [await refusal(harness, one) for one in (oldest, old)] == [ProblemCode.TOKEN_INVALID] * 2


async def test_a_quarantine_that_begins_during_a_refresh_holds(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, devices = await harness.enrol(), harness.store.devices
    renew, quarantines = devices.renew, harness.coordinator.quarantines

    async def renew_later(
        before: DeviceRecord, after: DeviceRecord, revocation: RevocationRecord | None
    ) -> bool:
        await quarantines.quarantine(before.id, QuarantineOrder(reason="A test."), audit=AUDIT)
        return await renew(before, after, revocation)

    monkeypatch.setattr(devices, "renew", renew_later)
    await refreshed(harness, old)

    with pytest.raises(ApiError) as refused:
        quarantines.check(old.device)
    assert refused.value.code is ProblemCode.QUARANTINED


async def test_a_revoked_token_that_was_given_out_for_longer_stays_void(harness: CoordinatorHarness) -> None:
    old = await refreshed(harness, await harness.enrol())  # for longer than the server gives out tokens now

    await harness.coordinator.revocations.revoke(old.device, audit=AUDIT)
    harness.pass_time(40 * DAY_S)
    await harness.coordinator.tick()

    assert not is_good(harness, old)


async def test_only_a_device_that_is_there_is_revoked(harness: CoordinatorHarness) -> None:
    with pytest.raises(ApiError) as refused:
        await harness.coordinator.revocations.revoke(DeviceId("nobody"), audit=AUDIT)

    assert refused.value.code is ProblemCode.NOT_FOUND


async def test_a_device_is_renamed_by_who_proves_the_user_that_it_has(harness: CoordinatorHarness) -> None:
    identity = await refreshed(harness, await harness.enrol(), ANN)
    named = await harness.store.devices.get(identity.device)

    refused = [
        await refusal(harness, identity, user=BOB),
        await refusal(harness, identity, user=BOB, proof=BOB),
        await refusal(harness, identity, user=BOB, proof=ANN[::-1]),
    ]
    unchanged = await harness.store.devices.get(identity.device)
    identity = await refreshed(harness, identity, BOB, ANN)
    renamed = await harness.store.devices.get(identity.device)

    assert refused == [ProblemCode.USER_NOT_PROVEN] * 3
    assert unchanged == named
    assert named is not None
    assert renamed is not None
    assert None is not named.user_digest != renamed.user_digest is not None


async def test_a_refresh_that_names_no_user_or_the_same_one_leaves_it(harness: CoordinatorHarness) -> None:
    identity = await refreshed(harness, await harness.enrol(), ANN)
    named = await harness.store.devices.get(identity.device)

    identity = await refreshed(harness, identity)
    identity = await refreshed(harness, identity, ANN)

    after = await harness.store.devices.get(identity.device)
    assert named is not None
    assert after is not None
    assert after.user_digest == named.user_digest is not None


@pytest.mark.fault("D4")
@pytest.mark.parametrize("user", ["alice@example.com", "123e4567-e89b-42d3-a456-426614174000"])
async def test_a_name_that_is_no_secret_enrols_nobody_and_changes_nothing(
    harness: CoordinatorHarness, user: str
) -> None:
    identity = await harness.enrol()
    before = await harness.store.devices.get(identity.device)

    with pytest.raises(ApiError) as enrolling:
        await harness.coordinator.enrolments.enrol(request(user), None)
    refreshing = await refusal(harness, identity, user=user)

    assert enrolling.value.code is refreshing is ProblemCode.USER_NOT_PROVEN
    assert await harness.store.devices.count(POPULATION) == 1
    assert await harness.store.devices.get(identity.device) == before


@pytest.mark.fault("D2")
async def test_the_store_holds_nothing_of_a_users_secret(harness: CoordinatorHarness) -> None:
    enrolled = await harness.coordinator.enrolments.enrol(request(ANN), None)

    row = await harness.store.devices.get(enrolled.device)
    assert row is not None
    thief = await harness.coordinator.enrolments.enrol(request(row.user_digest), None)

    assert ANN not in repr(row)
    robbed = await harness.store.devices.get(thief.device)
    assert robbed is not None
    assert robbed.user_digest != row.user_digest


async def test_an_enrolment_says_what_the_token_tells_of_the_device(harness: CoordinatorHarness) -> None:
    proven = await harness.enrol_proven()
    described = msgspec.structs.replace(request(), tier=2, tags=("tablet", "beta", "beta"))

    first = await harness.coordinator.enrolments.enrol(described, None)
    later = await harness.coordinator.enrolments.enrol(described, proven)

    assert (first.tier, first.tags, first.last_contributed_at) == (2, ("beta", "tablet"), None)
    assert (later.tier, later.tags) == (2, ("beta", "tablet"))
    assert later.last_contributed_at == harness.now - timedelta(days=1)

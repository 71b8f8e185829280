"""A refresh ends the token before it: after a short grace, for every process, and for good."""

import asyncio
from dataclasses import replace

import pytest
from tests.unit.coordinator.town import POPULATION, Town

from keyflock_server.coordinator import Coordinator
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.revocations import Revocations
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import EnrolRequest
from keyflock_server.protocol.problems import ProblemCode, Refused

pytestmark = pytest.mark.fault("D6")

ANN, BOB = "vT0hJ3qkX2m9sY8bQw5Zrg", "Qw5ZrgvT0hJ3qkX2m9sY8b"
DAY_S = 86_400.0


def request(user: str | None = None) -> EnrolRequest:
    return EnrolRequest(protocol=1, population=POPULATION, app_build=6, locale="en-US", user=user)


async def refreshed(
    town: Town,
    shown: DeviceIdentity,
    user: str | None = None,
    proof: str | None = None,
    coordinator: Coordinator | None = None,
) -> DeviceIdentity:
    """The identity of the new token."""
    asked = coordinator or town.coordinator
    enrolled = await asked.enrol(request(user), shown, user_proof=proof)
    return DeviceIdentity(enrolled.device, enrolled.population, enrolled.generation)


async def refusal(town: Town, shown: DeviceIdentity, **options: str) -> ProblemCode:
    with pytest.raises(Refused) as refused:
        await refreshed(town, shown, **options)  # type: ignore[arg-type]  # of the two that are strings
    return refused.value.code


def revocations(coordinator: Coordinator) -> Revocations:
    """What its process's gate asks."""
    return coordinator._world.revocations


def is_good(town: Town, identity: DeviceIdentity, coordinator: Coordinator | None = None) -> bool:
    try:
        revocations(coordinator or town.coordinator).check(identity, town.now)
    except Refused as refused:
        return refused.code is not ProblemCode.TOKEN_INVALID
    return True


async def test_the_old_token_is_good_for_a_minute_and_then_for_nothing(town: Town) -> None:
    old = await town.enrol()

    new = await refreshed(town, old)
    within = is_good(town, old)
    town.pass_time(60)

    assert (new.device, new.generation) == (old.device, 1)
    assert (within, is_good(town, old), is_good(town, new)) == (True, False, True)
    assert await refusal(town, old) is ProblemCode.TOKEN_INVALID


async def test_a_phone_that_lost_the_answer_gets_the_same_generation_again(town: Town) -> None:
    old = await town.enrol()

    first = await refreshed(town, old)
    town.pass_time(59)
    second = await refreshed(town, old)

    assert first == second
    assert is_good(town, second)


async def test_who_uses_the_new_token_to_refresh_ends_the_old_ones_grace(town: Town) -> None:
    oldest = await town.enrol()
    old = await refreshed(town, oldest)

    new = await refreshed(town, old)

    assert [is_good(town, one) for one in (oldest, old, new)] == [False, True, True]
    assert await refusal(town, oldest) is ProblemCode.TOKEN_INVALID


async def test_refreshing_over_and_over_keeps_no_old_token_alive(town: Town) -> None:
    identities = [await town.enrol()]

    for _ in range(5):
        identities.append(await refreshed(town, identities[-1]))
        town.pass_time(30)

    assert [is_good(town, one) for one in identities] == [False, False, False, False, True, True]


async def test_refreshes_at_once_agree_on_one_generation(town: Town) -> None:
    old = await town.enrol()
    replicas = [town.another_coordinator(name) for name in ("a", "b")]
    for replica in replicas:
        await replica.start()

    new = await asyncio.gather(
        *(refreshed(town, old, coordinator=replicas[number % 2]) for number in range(6))
    )

    assert set(new) == {replace(old, generation=1)}
    for replica in replicas:
        await replica.stop()


async def test_another_process_learns_of_a_refresh_within_the_bound(town: Town) -> None:
    here, there = town.another_coordinator("a"), town.another_coordinator("b")
    for one in (here, there):
        await one.start()
    old = await town.enrol()

    await refreshed(town, old, coordinator=here)
    again = await refreshed(town, old, coordinator=there)
    town.pass_time(60)
    await there.tick()

    assert again.generation == 1
    assert not is_good(town, old, there)
    for one in (here, there):
        await one.stop()


async def test_a_restart_remembers_what_is_void(town: Town) -> None:
    old = await town.enrol()
    await refreshed(town, old)
    town.pass_time(60)

    restarted = town.another_coordinator()
    await restarted.start()

    assert not is_good(town, old, restarted)
    await restarted.stop()


async def test_what_is_void_is_forgotten_when_it_has_expired_anyway(town: Town) -> None:
    old = await town.enrol()
    new = await refreshed(town, old)
    digest = revocations(town.coordinator).digest(old.device)

    town.pass_time(DAY_S + 200)
    await town.coordinator.tick()

    assert len(revocations(town.coordinator)) == 0
    assert await town.store.revocations.get(digest) is None
    # A drawer is no way back: the device's row knows its generation.
    assert await refusal(town, old) is ProblemCode.TOKEN_INVALID
    assert (await refreshed(town, new)).generation == 2


async def test_a_phone_goes_on_over_a_database_that_was_restored_from_a_backup(town: Town) -> None:
    old = await town.enrol()
    backup = await town.store.devices.get(old.device)
    assert backup is not None
    newest = await refreshed(town, await refreshed(town, old))

    town.store.devices._rows.devices[old.device] = backup  # type: ignore[attr-defined]  # the fake's own
    after = await refreshed(town, newest)

    assert after.generation == 3
    assert await refusal(town, old) is ProblemCode.TOKEN_INVALID


async def test_a_revoked_device_can_neither_call_nor_refresh_and_stays_in_the_list(town: Town) -> None:
    oldest = await town.enrol()
    old = await refreshed(town, oldest)

    view = await town.coordinator.revoke_device(old.device)

    assert view.id == old.device
    assert [is_good(town, one) for one in (oldest, old)] == [False, False]
    assert [await refusal(town, one) for one in (oldest, old)] == [ProblemCode.TOKEN_INVALID] * 2
    town.pass_time(40 * DAY_S)
    await town.coordinator.tick()
    assert [await refusal(town, one) for one in (oldest, old)] == [ProblemCode.TOKEN_INVALID] * 2


async def test_a_revoked_token_that_was_given_out_for_longer_stays_void(town: Town) -> None:
    old = await refreshed(town, await town.enrol())  # for longer than the server gives out tokens now

    await town.coordinator.revoke_device(old.device)
    town.pass_time(40 * DAY_S)
    await town.coordinator.tick()

    assert not is_good(town, old)


async def test_only_a_device_that_is_there_is_revoked(town: Town) -> None:
    with pytest.raises(Refused) as refused:
        await town.coordinator.revoke_device(DeviceId("nobody"))

    assert refused.value.code is ProblemCode.NOT_FOUND


async def test_a_device_is_renamed_by_who_proves_the_user_that_it_has(town: Town) -> None:
    identity = await refreshed(town, await town.enrol(), ANN)
    named = await town.store.devices.get(identity.device)

    refused = [
        await refusal(town, identity, user=BOB),
        await refusal(town, identity, user=BOB, proof=BOB),
        await refusal(town, identity, user=BOB, proof=ANN[::-1]),
    ]
    unchanged = await town.store.devices.get(identity.device)
    identity = await refreshed(town, identity, BOB, ANN)
    renamed = await town.store.devices.get(identity.device)

    assert refused == [ProblemCode.USER_NOT_PROVEN] * 3
    assert unchanged == named
    assert named is not None
    assert renamed is not None
    assert None is not named.user_digest != renamed.user_digest is not None


async def test_a_refresh_that_names_no_user_or_the_same_one_leaves_it(town: Town) -> None:
    identity = await refreshed(town, await town.enrol(), ANN)
    named = await town.store.devices.get(identity.device)

    identity = await refreshed(town, identity)
    identity = await refreshed(town, identity, ANN)

    after = await town.store.devices.get(identity.device)
    assert named is not None
    assert after is not None
    assert after.user_digest == named.user_digest is not None


@pytest.mark.fault("D4")
@pytest.mark.parametrize("user", ["alice@example.com", "123e4567-e89b-42d3-a456-426614174000"])
async def test_a_name_that_is_no_secret_enrols_nobody_and_changes_nothing(town: Town, user: str) -> None:
    identity = await town.enrol()
    before = await town.store.devices.get(identity.device)

    with pytest.raises(Refused) as enrolling:
        await town.coordinator.enrol(request(user), None)
    refreshing = await refusal(town, identity, user=user)

    assert enrolling.value.code is refreshing is ProblemCode.USER_NOT_PROVEN
    assert await town.store.devices.count(POPULATION) == 1
    assert await town.store.devices.get(identity.device) == before


@pytest.mark.fault("D2")
async def test_the_store_holds_nothing_of_a_users_secret(town: Town) -> None:
    enrolled = await town.coordinator.enrol(request(ANN), None)

    row = await town.store.devices.get(enrolled.device)
    assert row is not None
    thief = await town.coordinator.enrol(request(row.user_digest), None)

    assert ANN not in repr(row)
    robbed = await town.store.devices.get(thief.device)
    assert robbed is not None
    assert robbed.user_digest != row.user_digest

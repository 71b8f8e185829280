"""A round whose sums are lost or damaged: the server starts, says so, waits, and an operator can end it."""

import pytest
from tests.unit.coordinator.town import Town, constant, report, task_spec

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.operator import RoundView
from keyflock_server.protocol.problems import Refused
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.door import StorageError, StorageUnavailable

T = TaskName("t")
GONE, DAMAGED = "gone", "damaged"


async def half_a_round(town: Town) -> list[AssignmentClaims]:
    """Four of eight reports are counted."""
    await town.task(round="goal = 8", optimizer='name = "fedavgm"')
    claims = [await town.assigned(await town.enrol()) for _ in range(8)]
    await send_all(town, claims[:4])
    return claims


async def send_all(town: Town, claims: list[AssignmentClaims]) -> list[Receipt]:
    receipts = []
    for one in claims:
        try:
            receipts.append(await town.coordinator.report(one, report(constant(1.0), of=one)))
        except Refused:
            continue
    return receipts


async def lose(town: Town, folder: str, how: str) -> dict[str, bytes]:
    """What was there."""
    keys = [blob.key async for blob in town.blobs.list_blobs() if blob.key.startswith(folder)]
    before = {key: await town.blobs.get(key) for key in keys}
    for key in keys:
        await town.blobs.delete(key)
        if how == DAMAGED:
            await town.blobs.put(key, before[key][:-8] + bytes(8))
    return before


async def restart(town: Town) -> None:
    town.coordinator = town.another_coordinator()
    await town.coordinator.start()


async def first_round(town: Town) -> RoundView:
    return (await town.coordinator.rounds(T))[0]


@pytest.mark.parametrize("how", [GONE, DAMAGED])
async def test_a_server_starts_over_a_lost_sum_and_says_which_and_goes_on_when_it_is_restored(
    town: Town, how: str
) -> None:
    claims = await half_a_round(town)
    lost = await lose(town, "partials/", how)
    (name,) = lost

    await restart(town)
    await town.coordinator.create_task(task_spec("another"))
    await send_all(town, claims[4:])
    await town.coordinator.tick()
    stuck = await first_round(town)
    for key, data in lost.items():
        await town.blobs.put(key, data)
    await town.coordinator.tick()

    assert stuck.phase == "closing"
    assert name in stuck.detail
    assert [one.phase for one in await town.coordinator.rounds(TaskName("another"))] == ["collecting"]
    closed = await first_round(town)
    assert (closed.phase, closed.counted, closed.detail) == ("closed", 8, "")


@pytest.mark.parametrize("folder", ["partials/", "versions/", "optimizers/"])
async def test_a_round_that_cannot_close_for_good_ends_with_its_task_and_says_why(
    town: Town, folder: str
) -> None:
    await town.task(round="goal = 4", optimizer='name = "fedavgm"')
    await send_all(town, [await town.assigned(await town.enrol()) for _ in range(4)])
    await town.coordinator.tick()  # the optimiser has a state now
    claims = [await town.assigned(await town.enrol()) for _ in range(4)]
    await send_all(town, claims)
    lost = await lose(town, folder, DAMAGED)
    await town.coordinator.tick()
    stuck = await town.coordinator.round(claims[0].round)

    await town.coordinator.cancel_task(T)

    ended = await town.coordinator.round(claims[0].round)
    assert lost
    assert Phase(stuck.phase) in {Phase.CLOSING, Phase.MERGED}
    assert stuck.detail != ""
    assert ended.phase == "cancelled"
    assert ended.detail == (
        f"The task was cancelled by an operator. The round could not close: {stuck.detail} "
        f"The sum of {ended.counted} reports was discarded."
    )
    # A report that was acknowledged is acknowledged still: losing it was the disk's doing.
    assert [one.duplicate for one in await send_all(town, claims)] == [True] * 4
    assert [blob.key async for blob in town.blobs.list_blobs() if blob.key.startswith("partials/")] == []


async def test_a_task_is_not_given_up_while_the_blobs_only_do_not_answer(town: Town) -> None:
    await town.task("u", round="goal = 4")
    await send_all(town, [await town.assigned(await town.enrol()) for _ in range(4)])
    get = town.blobs.get

    async def away(key: str) -> bytes:
        raise StorageUnavailable(f"Blob {key} cannot be read: no answer.")

    town.blobs.get = away  # type: ignore[method-assign]  # for a while
    await town.coordinator.tick()
    with pytest.raises(StorageError):
        await town.coordinator.cancel_task(TaskName("u"))
    town.blobs.get = get  # type: ignore[method-assign]  # back again
    await town.coordinator.tick()

    assert [one.phase for one in await town.coordinator.rounds(TaskName("u"))] == ["closed"]

"""A round whose sums are lost or damaged: the server starts, says so, waits, and an operator can end it."""

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report, task_spec
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.operator.rounds import RoundView
from keyflock_server.protocol.problems import ApiError
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.errors import StorageError, StorageUnavailable

T = TaskName("t")
GONE, DAMAGED = "gone", "damaged"


async def half_a_round(harness: CoordinatorHarness) -> list[AssignmentClaims]:
    """Play half a round: four of eight reports are counted."""
    await harness.task(round="goal = 8", optimizer='name = "fedavgm"')
    claims = [await harness.assigned(await harness.enrol()) for _ in range(8)]
    await send_all(harness, claims[:4])
    return claims


async def send_all(harness: CoordinatorHarness, claims: list[AssignmentClaims]) -> list[Receipt]:
    receipts = []
    for one in claims:
        try:
            receipts.append(await harness.coordinator.reports.report(one, report(constant(1.0), of=one)))
        except ApiError:
            continue
    return receipts


async def lose(harness: CoordinatorHarness, folder: str, how: str) -> dict[str, bytes]:
    """Delete or damage the blobs and return their old contents."""
    keys = [blob.key async for blob in harness.blobs.list_blobs() if blob.key.startswith(folder)]
    before = {key: await harness.blobs.get(key) for key in keys}
    for key in keys:
        await harness.blobs.delete(key)
        if how == DAMAGED:
            await harness.blobs.put(key, before[key][:-8] + bytes(8))
    return before


async def restart(harness: CoordinatorHarness) -> None:
    harness.coordinator = harness.another_coordinator()
    await harness.coordinator.start()


async def first_round(harness: CoordinatorHarness) -> RoundView:
    return (await listed_rounds(harness.coordinator, T))[0]


@pytest.mark.parametrize("how", [GONE, DAMAGED])
async def test_a_server_starts_over_a_lost_sum_and_says_which_and_goes_on_when_it_is_restored(
    harness: CoordinatorHarness, how: str
) -> None:
    claims = await half_a_round(harness)
    lost = await lose(harness, "partials/", how)
    (name,) = lost

    await restart(harness)
    await harness.coordinator.tasks.create(task_spec("another"), audit=AUDIT)
    await send_all(harness, claims[4:])
    await harness.coordinator.tick()
    stuck = await first_round(harness)
    for key, data in lost.items():
        await harness.blobs.put(key, data)
    await harness.coordinator.tick()

    assert stuck.phase == "closing"
    assert name in stuck.detail
    assert [one.phase for one in await listed_rounds(harness.coordinator, TaskName("another"))] == [
        "collecting"
    ]
    closed = await first_round(harness)
    assert (closed.phase, closed.counted, closed.detail) == ("closed", 8, "")


@pytest.mark.parametrize("folder", ["partials/", "versions/", "optimizers/"])
async def test_a_round_that_cannot_close_for_good_ends_with_its_task_and_says_why(
    harness: CoordinatorHarness, folder: str
) -> None:
    await harness.task(round="goal = 4", optimizer='name = "fedavgm"')
    await send_all(harness, [await harness.assigned(await harness.enrol()) for _ in range(4)])
    await harness.coordinator.tick()  # the optimiser has a state now
    claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]
    await send_all(harness, claims)
    lost = await lose(harness, folder, DAMAGED)
    await harness.coordinator.tick()
    stuck = await harness.coordinator.tasks.round(claims[0].round)

    await harness.coordinator.tasks.cancel(T, audit=AUDIT)

    ended = await harness.coordinator.tasks.round(claims[0].round)
    assert lost
    assert Phase(stuck.phase) in {Phase.CLOSING, Phase.MERGED}
    assert stuck.detail != ""
    assert ended.phase == "cancelled"
    assert ended.detail == (
        f"The task was cancelled by an operator. The round could not close: {stuck.detail} "
        f"The sum of {ended.counted} reports was discarded."
    )
    # A report that was acknowledged is acknowledged still: losing it was the disk's doing.
    assert [one.duplicate for one in await send_all(harness, claims)] == [True] * 4
    assert [blob.key async for blob in harness.blobs.list_blobs() if blob.key.startswith("partials/")] == []


async def test_a_task_is_not_given_up_while_the_blobs_only_do_not_answer(harness: CoordinatorHarness) -> None:
    await harness.task("u", round="goal = 4")
    await send_all(harness, [await harness.assigned(await harness.enrol()) for _ in range(4)])
    get = harness.blobs.get

    async def away(key: str) -> bytes:
        raise StorageUnavailable(f"Blob {key} cannot be read: no answer.")

    harness.blobs.get = away  # type: ignore[method-assign]  # for a while
    await harness.coordinator.tick()
    with pytest.raises(StorageError):
        await harness.coordinator.tasks.cancel(TaskName("u"), audit=AUDIT)
    harness.blobs.get = get  # type: ignore[method-assign]  # back again
    await harness.coordinator.tick()

    assert [one.phase for one in await listed_rounds(harness.coordinator, TaskName("u"))] == ["closed"]

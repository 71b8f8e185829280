"""Blobs that no row points to are collected; one that is on its way into a transaction never is."""

import numpy as np
import pytest
from tests.unit.coordinator.town import Town, constant, report

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.problems import Refused
from keyflock_server.storage.memory import MemoryBlobs
from keyflock_server.storage.records import RoundRecord


async def clocked() -> Town:
    """A town whose blobs know when they were written, with a round that waits for eight phones."""
    town = Town()
    town.blobs = MemoryBlobs(lambda: town.now)
    town.coordinator = town.another_coordinator()
    await town.coordinator.start()
    await town.found()
    await town.task(round="goal = 8\ndeadline_s = 100000.0")
    return town


async def send_all(town: Town, claims: list[AssignmentClaims]) -> list[Receipt]:
    receipts = []
    for one in claims:
        try:
            receipts.append(await town.coordinator.report(one, report(constant(1.0), of=one)))
        except Refused:
            continue
    return receipts


async def keys(town: Town) -> set[str]:
    return {blob.key async for blob in town.blobs.list_blobs()}


jumps = pytest.mark.parametrize("jump_s", [0.0, 90_000.0], ids=["at once", "the clock jumps by a day"])


@jumps
async def test_a_sum_whose_transaction_is_under_way_is_not_collected(jump_s: float) -> None:
    town = await clocked()
    claims = [await town.assigned(await town.enrol()) for _ in range(8)]
    commit = town.store.rounds.commit_flush
    town.pass_time(3_601.0)  # orphans are looked for in the next pass

    async def slowly(*what: object) -> RoundRecord:
        """The blob is written; before its row is, a whole pass goes by."""
        town.pass_time(jump_s)
        await town.coordinator._orphans.collect()
        return await commit(*what)  # type: ignore[arg-type]  # handed on as they came

    town.store.rounds.commit_flush = slowly  # type: ignore[assignment, method-assign]  # the disk is slow
    receipts = await send_all(town, claims)
    await town.coordinator.tick()

    assert len(receipts) == 2  # the last of each four; the others hear it when they ask again
    np.testing.assert_array_equal(await town.model(1), constant(-1.0))
    await town.coordinator.stop()


@jumps
async def test_a_version_that_is_about_to_be_published_is_not_collected(jump_s: float) -> None:
    town = await clocked()
    claims = [await town.assigned(await town.enrol()) for _ in range(8)]
    advance = town.store.rounds.advance

    async def slowly(*what: object) -> RoundRecord:
        """Before each of the round's steps is written down, a whole pass goes by."""
        town.pass_time(jump_s)
        await town.coordinator._orphans.collect()
        return await advance(*what)  # type: ignore[arg-type]  # handed on as they came

    town.store.rounds.advance = slowly  # type: ignore[assignment, method-assign]  # the disk is slow
    await send_all(town, claims)
    await town.coordinator.tick()

    np.testing.assert_array_equal(await town.model(1), constant(-1.0))
    assert {key.split("/")[0] for key in await keys(town)} == {"identity", "versions", "optimizers"}
    await town.coordinator.stop()


async def test_what_a_failed_flush_left_goes_an_hour_after_its_round() -> None:
    town = await clocked()
    await town.blobs.put("partials/t-1/gone/1", b"left by a process that died")
    await town.blobs.put("versions/en/9-9/download", b"left by another")
    town.pass_time(3_601.0)
    await town.coordinator.tick()
    while_it_collects = await keys(town)
    await send_all(town, [await town.assigned(await town.enrol()) for _ in range(8)])

    town.pass_time(3_601.0)
    await town.coordinator.tick()  # closes the round
    town.pass_time(3_601.0)
    await town.coordinator.tick()

    assert "partials/t-1/gone/1" in while_it_collects
    assert "versions/en/9-9/download" not in while_it_collects
    assert {key.split("/")[0] for key in await keys(town)} == {"identity", "versions", "optimizers"}
    await town.coordinator.stop()

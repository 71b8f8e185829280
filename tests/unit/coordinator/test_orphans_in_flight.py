"""Blobs that no row points to are collected; one that is on its way into a transaction never is."""

import numpy as np
import pytest
from tests.memory_store.blobs import MemoryBlobStore
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.problems import ApiError
from keyflock_server.storage.interfaces.group_writer import OperationOutcome
from keyflock_server.storage.records import RoundRecord


async def clocked() -> CoordinatorHarness:
    """Return a harness whose blobs know when they were written; its round waits for eight phones."""
    harness = CoordinatorHarness()
    harness.blobs = MemoryBlobStore(lambda: harness.now)
    harness.coordinator = harness.another_coordinator()
    await harness.coordinator.start()
    await harness.create_population()
    await harness.task(round="goal = 8\ndeadline_s = 100000.0")
    return harness


async def send_all(harness: CoordinatorHarness, claims: list[AssignmentClaims]) -> list[Receipt]:
    receipts = []
    for one in claims:
        try:
            receipts.append(await harness.coordinator.reports.report(one, report(constant(1.0), of=one)))
        except ApiError:
            continue
    return receipts


async def keys(harness: CoordinatorHarness) -> set[str]:
    return {blob.key async for blob in harness.blobs.list_blobs()}


jumps = pytest.mark.parametrize("jump_s", [0.0, 90_000.0], ids=["at once", "the clock jumps by a day"])


@jumps
async def test_a_sum_whose_transaction_is_under_way_is_not_collected(jump_s: float) -> None:
    harness = await clocked()
    claims = [await harness.assigned(await harness.enrol()) for _ in range(8)]
    commit = harness.store.group_writer.commit
    harness.pass_time(3_601.0)  # orphans are looked for in the next pass

    async def slowly(*what: object) -> list[OperationOutcome]:
        """The blob is written; before its row is, a whole pass goes by."""
        harness.pass_time(jump_s)
        await harness.coordinator._orphans.collect()
        return await commit(*what)  # type: ignore[arg-type]  # handed on as they came

    harness.store.group_writer.commit = slowly  # type: ignore[assignment, method-assign]  # the disk is slow
    receipts = await send_all(harness, claims)
    await harness.coordinator.tick()

    assert len(receipts) == 2  # the last of each four; the others hear it when they ask again
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))
    await harness.coordinator.stop()


@jumps
async def test_a_version_that_is_about_to_be_published_is_not_collected(jump_s: float) -> None:
    harness = await clocked()
    claims = [await harness.assigned(await harness.enrol()) for _ in range(8)]
    advance = harness.store.rounds.advance

    async def slowly(*what: object) -> RoundRecord:
        """Before each of the round's steps is written down, a whole pass goes by."""
        harness.pass_time(jump_s)
        await harness.coordinator._orphans.collect()
        return await advance(*what)  # type: ignore[arg-type]  # handed on as they came

    harness.store.rounds.advance = slowly  # type: ignore[assignment, method-assign]  # the disk is slow
    await send_all(harness, claims)
    await harness.coordinator.tick()

    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))
    assert {key.split("/")[0] for key in await keys(harness)} == {"identity", "versions", "optimizers"}
    await harness.coordinator.stop()


async def test_what_a_failed_flush_left_goes_an_hour_after_its_round() -> None:
    harness = await clocked()
    await harness.blobs.put("partials/t-1/gone/1", b"left by a process that died")
    await harness.blobs.put("versions/en/9-9/download", b"left by another")
    harness.pass_time(3_601.0)
    await harness.coordinator.tick()
    while_it_collects = await keys(harness)
    await send_all(harness, [await harness.assigned(await harness.enrol()) for _ in range(8)])

    harness.pass_time(3_601.0)
    await harness.coordinator.tick()  # closes the round
    harness.pass_time(3_601.0)
    await harness.coordinator.tick()

    assert "partials/t-1/gone/1" in while_it_collects
    assert "versions/en/9-9/download" not in while_it_collects
    assert {key.split("/")[0] for key in await keys(harness)} == {"identity", "versions", "optimizers"}
    await harness.coordinator.stop()

"""Operators see who changed what and why; the log is verified, and reading it leaves no entry."""

import asyncio
from dataclasses import replace

import pytest
from tests.contract.audits import AUDIT
from tests.memory_store.store import MemoryStore
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness

from keyflock_server.coordinator.audit_service import AuditService
from keyflock_server.protocol.operator.audit import AuditQuery, VerificationQuery
from keyflock_server.protocol.operator.devices import QuarantineOrder
from keyflock_server.protocol.problems import ApiError, ProblemCode

PAUSE = replace(AUDIT, operator="eve", action="task.pause", reason="the night")


@pytest.fixture
async def service(harness: CoordinatorHarness) -> AuditService:
    """The log of a population, its release, a task, a pause and a quarantine: five entries."""
    await harness.task()
    await harness.coordinator.tasks.pause("t", audit=PAUSE)
    await harness.coordinator.tasks.pause("t", audit=PAUSE)  # it is paused already
    phone = await harness.enrol()
    order = QuarantineOrder(reason="odd reports")
    await harness.coordinator.quarantines.quarantine(phone.device, order, audit=AUDIT)
    await harness.coordinator.tasks.get("t")
    return harness.coordinator.audit


def log_of(harness: CoordinatorHarness) -> MemoryStore:
    assert isinstance(harness.store, MemoryStore)
    return harness.store


async def found(service: AuditService, query: AuditQuery) -> list[tuple[str, str]]:
    page = await service.page(query, None)
    return [(one.action, one.subject_kind) for one in page.items]


async def test_changes_are_listed_newest_first_a_page_at_a_time(service: AuditService) -> None:
    first = await service.page(AuditQuery(limit=3), None)
    rest = await service.page(AuditQuery(limit=3), first.next)

    assert [one.sequence for one in (*first.items, *rest.items)] == [5, 4, 3, 2, 1]
    assert (first.next, rest.next) == (3, None)


async def test_changes_are_found_by_population_operator_and_device(
    harness: CoordinatorHarness, service: AuditService
) -> None:
    (device,) = (row.id for row in await harness.store.devices.page(POPULATION, None, 10))

    assert await found(service, AuditQuery(operator="eve")) == [("task.pause", "task")]
    assert await found(service, AuditQuery(device=device)) == [("test.change", "device")]
    assert await found(service, AuditQuery(device="nobody")) == []
    assert len(await found(service, AuditQuery(population=POPULATION))) == 5
    assert await found(service, AuditQuery(subject_kind="task", action="task.pause")) == [
        ("task.pause", "task")
    ]


async def test_a_change_is_shown_field_by_field_and_as_whole_documents(service: AuditService) -> None:
    entry = await service.entry("4")

    assert (entry.operator, entry.action, entry.subject, entry.reason) == (
        "eve",
        "task.pause",
        "t",
        "the night",
    )
    assert {(one.path, one.before, one.after) for one in entry.changes} == {
        ("status", "active", "paused"),
        ("pause_reason", "", "the night"),
        ("revision", 0, 1),
    }
    assert entry.before is not None
    assert entry.after is not None
    assert entry.before["spec"]["round"]["goal"] == entry.after["spec"]["round"]["goal"] == 4
    assert entry.previous_digest == (await service.entry("3")).digest


@pytest.mark.parametrize("sequence", ["0", "6", "-1", "x", "1.0", "٣", "9" * 30])
async def test_an_entry_that_is_not_there_is_not_found(service: AuditService, sequence: str) -> None:
    with pytest.raises(ApiError) as refused:
        await service.entry(sequence)

    assert refused.value.code is ProblemCode.NOT_FOUND


async def test_the_log_is_verified_in_pages_against_a_head_that_was_kept(service: AuditService) -> None:
    pages = [await service.verify(VerificationQuery(limit=2))]
    while not pages[-1].is_complete:
        pages.append(await service.verify(VerificationQuery(limit=2, after=pages[-1].head)))

    assert [one.head.partition(":")[0] for one in pages] == ["2", "4", "5", "5"]
    assert all(one.broken is None for one in pages)
    again = await service.verify(VerificationQuery(known=pages[-1].head))
    assert again.broken is None
    forged = await service.verify(VerificationQuery(known=f"5:{'0' * 64}"))
    assert forged.broken is not None
    assert (forged.broken.sequence, forged.broken.kind) == (5, "changed")


async def test_the_first_broken_entry_is_named(harness: CoordinatorHarness, service: AuditService) -> None:
    entries = log_of(harness).rows.log.entries
    entries[4] = replace(entries[4], reason="nothing to see here")

    page = await service.verify(VerificationQuery())

    assert page.broken is not None
    assert (page.broken.sequence, page.broken.kind, page.is_complete) == (4, "changed", True)


async def test_changes_while_the_log_is_verified_break_nothing(
    harness: CoordinatorHarness, service: AuditService
) -> None:
    async def change() -> None:
        for _ in range(3):
            await harness.coordinator.tasks.resume("t", audit=AUDIT)
            await harness.coordinator.tasks.pause("t", audit=AUDIT)

    changing = asyncio.create_task(change())
    page = await service.verify(VerificationQuery(limit=1))
    while not page.is_complete:
        page = await service.verify(VerificationQuery(limit=1, after=page.head))
    await changing

    assert page.broken is None

"""One contract for every record store: of two changes that were decided on one revision, one is made."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device
from tests.contract.stores import STORES, new_store
from tests.contract.test_store_contract import EN, NOW, POPULATION, SPEC, TASK, VERSION, device

from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.releases.release_state import ReleaseAction
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.audit_documents import (
    device_document,
    release_document,
    revision_of,
    version_document,
)
from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.operator_records import ReleaseRecord
from keyflock_server.storage.records import RevocationRecord

LATER = NOW + timedelta(hours=1)
PHONE = device("p")
STEP = ReleaseRecord(
    population=EN,
    sequence=1,
    at=NOW,
    action=ReleaseAction.PROMOTED,
    version=ModelVersion(0),
    operator="ann",
    reason="x",
)
Change = Callable[[RecordStore, AuditContext], Awaitable[object]]


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    await opened.tasks.add(TASK, audit=AUDIT)
    await add_device(opened, PHONE)
    yield opened
    await opened.close()


async def present(store: RecordStore, kind: SubjectKind) -> str:
    """The subject's revision now."""
    match kind:
        case SubjectKind.TASK:
            task = await store.tasks.get(SPEC.name)
            assert task is not None
            return str(task.revision)
        case SubjectKind.POPULATION:
            population = await store.populations.get(EN)
            assert population is not None
            return str(population.revision)
        case SubjectKind.RELEASE:
            release = await store.releases.newest(EN)
            assert release is not None
            return revision_of(kind, release_document(release))
        case SubjectKind.VERSION:
            version = await store.populations.version(EN, ModelVersion(0))
            assert version is not None
            return revision_of(kind, version_document(version))
        case _:
            phone = await store.devices.get(PHONE.id)
            assert phone is not None
            return revision_of(kind, device_document(phone))


def about_phone(audit: AuditContext) -> AuditContext:
    return audit.about("d1g3st")


def revocation() -> RevocationRecord:
    return RevocationRecord(
        device_digest="d1g3st", generation=0, effective_at=NOW, until=LATER, written_at=NOW
    )


CHANGES: dict[str, tuple[SubjectKind, Change]] = {
    "a task": (
        SubjectKind.TASK,
        lambda store, audit: store.tasks.change(SPEC.name, {"pause_reason": "x"}, audit=audit),
    ),
    "a task's status": (
        SubjectKind.TASK,
        lambda store, audit: store.tasks.set_status(SPEC.name, TaskStatus.CANCELLED, audit=audit),
    ),
    "a population": (
        SubjectKind.POPULATION,
        lambda store, audit: store.populations.change(EN, {"archived_at": LATER}, audit=audit),
    ),
    "a release": (SubjectKind.RELEASE, lambda store, audit: store.releases.append(STEP, audit=audit)),
    "a version": (
        SubjectKind.VERSION,
        lambda store, audit: store.populations.set_pinned(EN, ModelVersion(0), NOW, audit=audit),
    ),
    "a quarantine": (
        SubjectKind.DEVICE,
        lambda store, audit: store.devices.set_quarantine(
            PHONE.id, None, None, LATER, NOW, audit=about_phone(audit)
        ),
    ),
    "a device's tokens": (
        SubjectKind.DEVICE,
        lambda store, audit: store.devices.renew(
            PHONE,
            replace(PHONE, token_generation=PHONE.token_generation + 1),
            revocation(),
            audit=about_phone(audit),
        ),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_one_of_two_changes_at_once_is_made(store: RecordStore, what: str) -> None:
    kind, change = CHANGES[what]
    decided = replace(AUDIT, revision=await present(store, kind))

    ends = await asyncio.gather(*(change(store, decided) for _ in range(2)), return_exceptions=True)

    assert [type(end) for end in ends if isinstance(end, BaseException)] == [Superseded]
    assert await present(store, kind) != decided.revision


@pytest.mark.parametrize("what", CHANGES)
async def test_a_change_that_was_decided_on_another_revision_changes_nothing(
    store: RecordStore, what: str
) -> None:
    kind, change = CHANGES[what]
    before, head = await present(store, kind), await store.audit.head()

    with pytest.raises(Superseded):
        await change(store, replace(AUDIT, revision="another"))

    assert (await present(store, kind), await store.audit.head()) == (before, head)


async def test_a_device_that_has_changed_is_not_forgotten(store: RecordStore) -> None:
    audit = about_phone(replace(AUDIT, revision="another"))

    with pytest.raises(Superseded):
        await store.devices.forget([PHONE.id], [], lambda _row, _counts: [], NOW, audit=audit)

    assert await store.devices.get(PHONE.id) == PHONE

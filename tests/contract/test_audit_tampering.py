"""Whoever changes, deletes or swaps entries of the audit log is found out, on every store."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, update
from tests.contract.audits import AUDIT, verified
from tests.contract.stores import STORES, new_store
from tests.contract.test_operators_contract import TOKEN
from tests.memory_store.store import MemoryStore

from keyflock_server.audit.verification import BreakKind
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import audit_log


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """A store whose log has four entries."""
    opened = new_store(request, tmp_path)
    await opened.open()
    for number in range(4):
        await create_token(opened, number)
    yield opened
    await opened.close()


async def create_token(store: RecordStore, number: int) -> None:
    token = replace(TOKEN, id=f"k{number}", digest=bytes([number]) * 32)
    await store.api_tokens.add(token, audit=AUDIT)


async def tamper(store: RecordStore, how: str) -> None:
    """Do to the log what somebody with access to the database might do."""
    if isinstance(store, MemoryStore):
        log = store.rows.log.entries
        match how:
            case "a changed field":
                log[2] = replace(log[2], reason="nothing to see here")
            case "a deleted row":
                del log[2]
            case "a swapped pair":
                log[2], log[3] = replace(log[3], sequence=2), replace(log[2], sequence=3)
            case _:
                del log[4]
        return
    assert isinstance(store, SqlStore)

    def change(connection: Connection) -> None:
        match how:
            case "a changed field":
                one = update(audit_log).where(audit_log.c.sequence == 2)
                connection.execute(one.values(reason="nothing to see here"))
            case "a deleted row":
                connection.execute(delete(audit_log).where(audit_log.c.sequence == 2))
            case "a swapped pair":
                for before, after in ((2, 99), (3, 2), (99, 3)):
                    one = update(audit_log).where(audit_log.c.sequence == before)
                    connection.execute(one.values(sequence=after))
            case _:
                connection.execute(delete(audit_log).where(audit_log.c.sequence == 4))

    await store._transactions.run(change)


@pytest.mark.parametrize(
    ("how", "sequence", "kind"),
    [
        ("a changed field", 2, BreakKind.CHANGED),
        ("a deleted row", 2, BreakKind.MISSING),
        ("a swapped pair", 2, BreakKind.REORDERED),
        ("a cut end", 4, BreakKind.TRUNCATED),
    ],
)
async def test_who_tampers_with_the_log_is_found_out_also_after_more_changes(
    store: RecordStore, how: str, sequence: int, kind: BreakKind
) -> None:
    await tamper(store, how)

    broken = await verified(store)
    assert broken is not None
    assert (broken.sequence, broken.kind) == (sequence, kind)
    await create_token(store, 4)
    later = await verified(store)
    assert later is not None
    # After a cut end the numbers that were there are not used again.
    assert (later.sequence, later.kind) == (sequence, BreakKind.MISSING if how == "a cut end" else kind)

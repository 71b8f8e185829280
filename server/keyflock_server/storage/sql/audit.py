"""The audit log in SQL, and the one way in which a change gets its entry.

A transaction changes its subject within ``audited``: the subject is read before and after, as a whole, and
what differs is appended to the log in the same transaction. On PostgreSQL an advisory lock, which is the last
that a transaction takes, makes entries follow one another without gaps.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final

from sqlalchemy import Connection, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import (
    EMPTY,
    AuditEntry,
    AuditHead,
    AuditSubject,
    SubjectKind,
    next_entry,
)
from keyflock_server.storage.audit_documents import require_revision
from keyflock_server.storage.interfaces.audit import AuditFilter
from keyflock_server.storage.sql.rows import damaged_row
from keyflock_server.storage.sql.upserts import insert_or_update
from keyflock_server.storage.tables import audit_log, cluster

#: The key of PostgreSQL's advisory lock on the log's end ("auditlog").
_LOG_LOCK: Final = 0x6175_6469_746C_6F67
#: The name under which the head is stored, so that a log whose newest entries were deleted is found out.
_HEAD: Final = "audit_head"


class SqlAuditRepository:
    """Implements ``AuditRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine) -> None:
        self._reader = reader

    async def page(self, wanted: AuditFilter, before: int | None, limit: int) -> list[AuditEntry]:
        """Return a page of the wanted entries, newest first."""
        query = select(audit_log).order_by(audit_log.c.sequence.desc()).limit(limit)
        if before is not None:
            query = query.where(audit_log.c.sequence < before)
        for name in ("operator", "action", "subject_kind", "subject", "population"):
            if (value := getattr(wanted, name)) is not None:
                query = query.where(audit_log.c[name] == value)
        if wanted.since is not None:
            query = query.where(audit_log.c.at >= wanted.since)
        if wanted.until is not None:
            query = query.where(audit_log.c.at < wanted.until)
        with damaged_row("the audit log"):
            async with self._reader.connect() as connection:
                rows = (await connection.execute(query)).all()
        return [AuditEntry(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def get(self, sequence: int) -> AuditEntry | None:
        """Return the entry of this sequence number, or None."""
        query = select(audit_log).where(audit_log.c.sequence == sequence)
        with damaged_row("the audit log"):
            async with self._reader.connect() as connection:
                row = (await connection.execute(query)).one_or_none()
        return None if row is None else AuditEntry(**row._mapping)  # noqa: SLF001 - the documented name

    async def ascending(self, after: int, limit: int) -> list[AuditEntry]:
        """Return the first entries of sequence numbers above ``after``, oldest first."""
        query = select(audit_log).where(audit_log.c.sequence > after)
        with damaged_row("the audit log"):
            async with self._reader.connect() as connection:
                rows = (await connection.execute(query.order_by(audit_log.c.sequence).limit(limit))).all()
        return [AuditEntry(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name

    async def head(self) -> AuditHead:
        """Return the head that is stored beside the log."""
        async with self._reader.connect() as connection:
            return await connection.run_sync(_stored_head)


@contextmanager
def audited(
    connection: Connection,
    audit: AuditContext | None,
    kind: SubjectKind,
    id_: str,
    document_of: Callable[[Connection, str], Document | None],
) -> Iterator[None]:
    """Append an audit entry for what the block changes; a block that changes nothing has none.

    The block is the end of its transaction: what it locks is locked in the order of ``lock_order``, and
    nothing is locked after it.

    Args:
        connection: A connection in a transaction.
        audit: Who makes the change and why; None for what the server does in the course of a round.
        kind: The kind of the subject.
        id_: The id of the subject.
        document_of: Reads the subject by its id and locks its rows; None if it does not exist. A document of
            something that belongs to a population names it in ``population``.
    Raises:
        Superseded: the change was decided on another revision (``AuditContext.revision``).
    """
    if audit is None:
        yield
        return
    before = document_of(connection, id_)
    require_revision(audit, kind, id_, before)
    yield
    after = document_of(connection, id_)
    if before != after:
        subject = AuditSubject.of_change(audit, kind, id_, before, after)
        _append(connection, audit, subject, before, after)


def _append(
    connection: Connection,
    audit: AuditContext,
    subject: AuditSubject,
    before: Document | None,
    after: Document | None,
) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOG_LOCK})
    newest = select(audit_log.c.sequence, audit_log.c.digest).order_by(audit_log.c.sequence.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    last = EMPTY if row is None else AuditHead(row.sequence, row.digest)
    # Entries that were deleted from the log's end leave a gap: their numbers are not used again.
    head = max(_stored_head(connection), last, key=lambda one: one.sequence)
    entry = next_entry(head, audit, subject, before, after)
    connection.execute(insert(audit_log).values(asdict(entry)))
    new = insert_or_update(connection, cluster)
    written = new.on_conflict_do_update(index_elements=["name"], set_={"value": new.excluded.value})
    connection.execute(written, {"name": _HEAD, "value": str(AuditHead(entry.sequence, entry.digest))})


def _stored_head(connection: Connection) -> AuditHead:
    value = connection.execute(select(cluster.c.value).where(cluster.c.name == _HEAD)).scalar_one_or_none()
    with damaged_row("the audit log's head"):
        return EMPTY if value is None else AuditHead.parse(value)

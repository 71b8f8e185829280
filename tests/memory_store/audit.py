"""The audit log in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import EMPTY, AuditEntry, AuditHead, AuditSubject, SubjectKind, next_entry
from keyflock_server.storage.audit_documents import require_revision
from keyflock_server.storage.interfaces.audit import AuditFilter


@dataclass
class MemoryLog:
    """The entries by their sequence numbers, and the head that is stored beside them."""

    entries: dict[int, AuditEntry] = field(default_factory=dict)
    head: AuditHead = EMPTY

    @contextmanager
    def audited(
        self,
        audit: AuditContext | None,
        kind: SubjectKind,
        id_: str,
        document_of: Callable[[], Document | None],
    ) -> Iterator[None]:
        if audit is None:
            yield
            return
        before = document_of()
        require_revision(audit, kind, id_, before)
        yield
        after = document_of()
        if before != after:
            subject = AuditSubject.of_change(audit, kind, id_, before, after)
            newest = self.entries[max(self.entries)] if self.entries else None
            last = EMPTY if newest is None else AuditHead(newest.sequence, newest.digest)
            head = max(self.head, last, key=lambda one: one.sequence)
            entry = next_entry(head, audit, subject, before, after)
            self.entries[entry.sequence] = entry
            self.head = AuditHead(entry.sequence, entry.digest)


class MemoryAuditRepository:
    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    async def page(self, wanted: AuditFilter, before: int | None, limit: int) -> list[AuditEntry]:
        found = [
            entry
            for entry in self._log.entries.values()
            if before is None or entry.sequence < before
            if _is_wanted(entry, wanted)
        ]
        return sorted(found, key=lambda entry: entry.sequence, reverse=True)[:limit]

    async def get(self, sequence: int) -> AuditEntry | None:
        return self._log.entries.get(sequence)

    async def ascending(self, after: int, limit: int) -> list[AuditEntry]:
        later = sorted(sequence for sequence in self._log.entries if sequence > after)
        return [self._log.entries[sequence] for sequence in later[:limit]]

    async def head(self) -> AuditHead:
        return self._log.head


def _is_wanted(entry: AuditEntry, wanted: AuditFilter) -> bool:
    names = ("operator", "action", "subject_kind", "subject", "population")
    return (
        all(getattr(wanted, name) in (None, getattr(entry, name)) for name in names)
        and (wanted.since is None or entry.at >= wanted.since)
        and (wanted.until is None or entry.at < wanted.until)
    )

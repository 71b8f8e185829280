"""The interface to the audit log; entries are appended by the repositories that make the changes."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from keyflock_server.audit.entry import AuditEntry, AuditHead


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which entries are wanted; a field that is None leaves none out."""

    operator: str | None = None
    action: str | None = None
    subject_kind: str | None = None
    subject: str | None = None
    population: str | None = None
    #: Entries of this instant or later.
    since: datetime | None = None
    #: Entries before this instant.
    until: datetime | None = None


class AuditRepository(Protocol):
    """Reads the audit log.

    A repository that changes something for an operator takes an ``AuditContext``, and appends the entry in
    the transaction of the change: a change that fails, or changes nothing, has no entry.
    """

    async def page(self, wanted: AuditFilter, before: int | None, limit: int) -> list[AuditEntry]:
        """Return a page of the wanted entries, newest first, of sequence numbers below ``before``."""
        ...

    async def get(self, sequence: int) -> AuditEntry | None:
        """Return the entry of this sequence number, or None."""
        ...

    async def ascending(self, after: int, limit: int) -> list[AuditEntry]:
        """Return the first entries of sequence numbers above ``after``, oldest first."""
        ...

    async def head(self) -> AuditHead:
        """Return the head that is stored beside the log; ``EMPTY`` if nothing was ever appended."""
        ...

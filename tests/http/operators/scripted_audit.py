"""An audit service that knows one change, and notes what it is asked."""

from collections.abc import Callable
from datetime import UTC, datetime

from keyflock_server.coordinator.operator_lists import Page
from keyflock_server.protocol.operator.audit import (
    AuditEntryDetail,
    AuditEntryView,
    AuditQuery,
    AuditVerification,
    VerificationQuery,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ENTRY = AuditEntryDetail(
    sequence=7,
    at=NOW,
    operator="ann",
    role="operator",
    action="task.pause",
    subject_kind="task",
    subject="next-word",
    population="en-US",
    reason="the night",
    changes=[],
    before=None,
    after={},
    previous_digest="00",
    digest="11",
)
VERIFIED = AuditVerification(head=f"7:{'ab' * 32}", broken=None, is_complete=True)

Note = Callable[[str, object], None]


class ScriptedAudit:
    def __init__(self, note: Note) -> None:
        self._note = note

    async def page(self, query: AuditQuery, before: int | None) -> Page[AuditEntryView, int]:
        self._note("audit_log", (query, before))
        return Page([ENTRY], 7)

    async def entry(self, sequence: str) -> AuditEntryDetail:
        self._note("audit_entry", sequence)
        return ENTRY

    async def verify(self, query: VerificationQuery) -> AuditVerification:
        self._note("audit_verification", query)
        return VERIFIED

"""Who makes the changes of the contract tests."""

from dataclasses import replace
from datetime import UTC, datetime

from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import EMPTY
from keyflock_server.audit.verification import BrokenEntry
from keyflock_server.storage.audit_verification import verify_page
from keyflock_server.storage.interfaces.record_store import RecordStore

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
AUDIT = AuditContext(operator="ann", role="operator", reason="a test", action="test.change", at=NOW)


def doing(action: str) -> AuditContext:
    return replace(AUDIT, action=action)


async def verified(store: RecordStore) -> BrokenEntry | None:
    """The first broken entry of the store's log, read in pages of two."""
    head = EMPTY
    while True:
        page = await verify_page(store.audit, head, None, 2)
        if page.broken is not None or page.is_last:
            return page.broken
        head = page.head

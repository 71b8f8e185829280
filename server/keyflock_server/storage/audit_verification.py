"""Verification of a store's audit log, a page at a time, also while servers append to it."""

from dataclasses import dataclass

from keyflock_server.audit.entry import AuditHead
from keyflock_server.audit.verification import BrokenEntry, ChainVerifier
from keyflock_server.storage.interfaces.audit import AuditRepository


@dataclass(frozen=True, slots=True)
class VerifiedPage:
    """The result of one page."""

    #: The last entry that continues the chain; the next page starts from it.
    head: AuditHead
    #: The first broken entry; None if there is none so far.
    broken: BrokenEntry | None
    #: Whether there are no more entries.
    is_last: bool


async def verify_page(
    log: AuditRepository, start: AuditHead, known: AuditHead | None, limit: int
) -> VerifiedPage:
    """Verify the entries that follow what was verified before.

    Args:
        log: The audit log.
        start: The head of the page before; ``EMPTY`` for the first page.
        known: A head that was kept elsewhere; None without one.
        limit: The maximum number of entries.
    """
    verifier = ChainVerifier(known, start)
    end = await log.head()  # before the page: what is appended meanwhile is on the next one
    entries = await log.ascending(start.sequence, limit)
    broken = verifier.add(entries)
    if broken is None and not entries:
        broken = verifier.finish(end)
    return VerifiedPage(verifier.head, broken, is_last=broken is not None or not entries)

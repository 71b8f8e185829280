"""The audit service shows operators the audit log, and verifies it. It changes nothing."""

import json
from typing import Any

from keyflock_server.audit.differences import field_changes
from keyflock_server.audit.entry import EMPTY, AuditEntry, AuditHead, SubjectKind
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.operator_lists import Page
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.operator.audit import (
    AuditEntryDetail,
    AuditEntryView,
    AuditQuery,
    AuditVerification,
    BrokenEntryView,
    FieldChangeView,
    VerificationQuery,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.audit_verification import VerifiedPage, verify_page
from keyflock_server.storage.interfaces.audit import AuditFilter


class AuditService:
    """Shows and verifies the audit log."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def page(self, query: AuditQuery, before: int | None) -> Page[AuditEntryView, int]:
        """Return a page of entries, newest first.

        Args:
            query: Which entries are wanted.
            before: Only entries with lower sequence numbers.
        """
        wanted = AuditFilter(
            operator=query.operator,
            action=query.action,
            subject_kind=query.subject_kind if query.device is None else SubjectKind.DEVICE,
            subject=query.subject if query.device is None else self._digest(query.device),
            population=None if query.population is None else await self._population(query.population),
            since=query.since,
            until=query.until,
        )
        found = await self._deps.store.audit.page(wanted, before, query.limit + 1)
        items = found[: query.limit]
        views = [AuditEntryView(**_columns(one)) for one in items]
        return Page(views, items[-1].sequence if len(found) > query.limit else None)

    async def entry(self, sequence: str) -> AuditEntryDetail:
        """Return one entry with its documents; raises ApiError ``not_found``."""
        is_number = sequence.isascii() and sequence.isdecimal() and len(sequence) <= 9
        entry = await self._deps.store.audit.get(int(sequence)) if is_number else None
        if entry is None:
            raise ApiError(ProblemCode.NOT_FOUND, "The audit log has no entry of this number.")
        return AuditEntryDetail(
            **_columns(entry),
            changes=[
                FieldChangeView(path=one.path, before=one.before, after=one.after)
                for one in field_changes(entry.before_json, entry.after_json)
            ],
            before=_document(entry.before_json),
            after=_document(entry.after_json),
            previous_digest=entry.previous_digest.hex(),
            digest=entry.digest.hex(),
        )

    async def verify(self, query: VerificationQuery) -> AuditVerification:
        """Verify the entries of one page."""
        start = EMPTY if query.after is None else AuditHead.parse(query.after)
        known = None if query.known is None else AuditHead.parse(query.known)
        return verification_view(await verify_page(self._deps.store.audit, start, known, query.limit))

    def _digest(self, device: str) -> str:
        return self._deps.revocations.digest(DeviceId(device))

    async def _population(self, name: str) -> str:
        """Return the id of a population by any of its names; a deleted one goes by its id."""
        return await self._deps.store.populations.resolve(name) or name


def verification_view(page: VerifiedPage) -> AuditVerification:
    """Return what the verification of a page found, as operators see it."""
    broken = page.broken
    return AuditVerification(
        head=str(page.head),
        broken=None
        if broken is None
        else BrokenEntryView(sequence=broken.sequence, kind=broken.kind, detail=broken.detail),
        is_complete=page.is_last,
    )


def _columns(entry: AuditEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in AuditEntryView.__struct_fields__}


def _document(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    document: dict[str, Any] = json.loads(text)
    return document

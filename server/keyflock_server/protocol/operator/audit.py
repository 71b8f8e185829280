"""Operators' messages and calls about the audit log."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from keyflock_server.protocol.operator.call import NoBody, OperatorCall, Query
from keyflock_server.protocol.operator.pages import MAX_LIMIT, PageQuery
from keyflock_server.protocol.roles import Role

AwareTime = Annotated[datetime, Meta(tz=True)]
#: The number and the digest of an entry: ``7:`` and 64 hexadecimal digits.
Head = Annotated[str, Meta(pattern=r"^[0-9]{1,9}:[0-9a-f]{64}\Z")]


class AuditQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries a page has."""

    operator: str | None = None
    #: For example ``task.pause``.
    action: str | None = None
    subject_kind: Literal["population", "task", "round", "version", "release", "device", "token"] | None = (
        None
    )
    #: The subject's id; of a device, its keyed digest.
    subject: str | None = None
    #: A device's id, in place of its digest.
    device: str | None = None
    #: A name of the population; a deleted one's id.
    population: str | None = None
    #: Entries of this instant or later.
    since: AwareTime | None = None
    #: Entries before this instant.
    until: AwareTime | None = None


class AuditEntryView(Struct, frozen=True, kw_only=True):
    """A change that somebody made."""

    #: 1 for the first change; there are no gaps.
    sequence: int
    at: datetime
    #: Whose token was used; ``policy`` or ``gate`` for what the server does by itself.
    operator: str
    role: str
    action: str
    subject_kind: str
    #: The id of what was changed; of a device, a keyed digest.
    subject: str
    population: str | None
    reason: str


class FieldChangeView(Struct, frozen=True, kw_only=True):
    """A field that was changed."""

    #: The way to the field: names joined by dots.
    path: str
    #: Null if it was null, or not there.
    before: Any
    after: Any


class AuditEntryDetail(AuditEntryView, frozen=True, kw_only=True):
    """A change, with what it changed."""

    changes: list[FieldChangeView]
    #: The subject before the change; null if it did not exist.
    before: dict[str, Any] | None
    #: The subject after the change; null if it did not exist any more.
    after: dict[str, Any] | None
    previous_digest: str
    digest: str


class AuditLog(Struct, frozen=True, kw_only=True):
    """A page of the audit log, newest first."""

    items: list[AuditEntryView]
    #: Where the next page begins; null after the last one.
    next: str | None = None


class VerificationQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries are verified."""

    #: Maximum number of entries.
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = MAX_LIMIT
    #: The ``head`` of the page before; left out, verification begins with the first entry.
    after: Head | None = None
    #: A head that was kept elsewhere; the log must have it.
    known: Head | None = None


class BrokenEntryView(Struct, frozen=True, kw_only=True):
    """The first entry at which the log is broken."""

    sequence: int
    #: changed, missing, reordered or truncated.
    kind: str
    detail: str


class AuditVerification(Struct, frozen=True, kw_only=True):
    """What the verification of some entries found."""

    #: The last entry that continues the chain.
    head: str
    broken: BrokenEntryView | None
    #: Whether all entries are verified, or the broken one is found.
    is_complete: bool


AUDIT_LOG: Final = OperatorCall(
    "audit_log",
    "GET",
    "/admin/v1/audit",
    Role.VIEWER,
    AuditQuery,
    NoBody,
    AuditLog,
    "List operators' changes, newest first.",
)
AUDIT_ENTRY: Final = OperatorCall(
    "audit_entry",
    "GET",
    "/admin/v1/audit/{sequence}",
    Role.VIEWER,
    Query,
    NoBody,
    AuditEntryDetail,
    "Show a change, with its subject before and after.",
)
AUDIT_VERIFICATION: Final = OperatorCall(
    "audit_verification",
    "GET",
    "/admin/v1/audit/verification",
    Role.VIEWER,
    VerificationQuery,
    NoBody,
    AuditVerification,
    "Verify the chain of entries, a page at a time.",
)

CALLS: Final = (AUDIT_LOG, AUDIT_ENTRY, AUDIT_VERIFICATION)

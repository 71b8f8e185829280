"""An entry of the audit log, and the digest that chains it to the entry before."""

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from keyflock_server.audit.canonical_json import Document, canonical_json
from keyflock_server.audit.context import AuditContext

#: The digest that the first entry continues.
GENESIS: Final = bytes(32)
FIRST_SEQUENCE: Final = 1
_HEAD: Final = re.compile(r"([0-9]{1,10}):([0-9a-f]{64})")


class SubjectKind(StrEnum):
    """The kinds of things that operators change."""

    POPULATION = "population"
    TASK = "task"
    ROUND = "round"
    VERSION = "version"
    RELEASE = "release"
    DEVICE = "device"
    TOKEN = "token"  # noqa: S105 - a kind, not a secret


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSubject:
    """The thing that a change concerns."""

    kind: SubjectKind
    #: Its id; a device's is a keyed digest.
    id: str
    #: The id of its population; None for what belongs to none.
    population: str | None = None

    @classmethod
    def of_change(
        cls,
        audit: AuditContext,
        kind: SubjectKind,
        id_: str,
        before: Document | None,
        after: Document | None,
    ) -> "AuditSubject":
        """Return the subject of a change.

        Args:
            audit: Who makes the change; its ``subject`` takes the id's place.
            kind: The kind of the subject.
            id_: The subject's id.
            before: The subject before the change; it names its population in ``population``, if it has one.
            after: The subject after the change.
        Raises:
            ValueError: a device's id would be in the log, which outlives the device.
        """
        if kind is SubjectKind.DEVICE and audit.subject is None:
            raise ValueError("A device goes into the audit log by a keyed digest of its id.")
        document = after or before or {}
        population = id_ if kind is SubjectKind.POPULATION else document.get("population")
        return cls(kind=kind, id=audit.subject or id_, population=population)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One change: who made it, when and why, and its subject before and after as whole documents."""

    #: 1 for the first; there are no gaps.
    sequence: int
    at: datetime
    operator: str
    role: str
    action: str
    #: A ``SubjectKind``; any text, because a log that was tampered with is still read.
    subject_kind: str
    subject: str
    population: str | None
    reason: str
    #: The subject as canonical JSON; None where it did not exist.
    before_json: str | None
    after_json: str | None
    #: The digest of the entry before.
    previous_digest: bytes
    #: SHA-256 of all other fields.
    digest: bytes

    def computed_digest(self, sequence: int | None = None) -> bytes:
        """Return the SHA-256 of all fields but ``digest``, with another sequence number if one is given."""
        fields = {
            "sequence": self.sequence if sequence is None else sequence,
            "at": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
            "operator": self.operator,
            "role": self.role,
            "action": self.action,
            "subject_kind": self.subject_kind,
            "subject": self.subject,
            "population": self.population,
            "reason": self.reason,
            "before": self.before_json,
            "after": self.after_json,
            "previous_digest": self.previous_digest.hex(),
        }
        return hashlib.sha256(canonical_json(fields).encode()).digest()


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The newest entry of a log, by which a whole log is known."""

    sequence: int
    digest: bytes

    def __str__(self) -> str:
        """Return ``sequence:digest`` in hexadecimal."""
        return f"{self.sequence}:{self.digest.hex()}"

    @classmethod
    def parse(cls, text: str) -> "AuditHead":
        """Return the head that ``str`` wrote; raises ValueError."""
        found = _HEAD.fullmatch(text)
        if found is None:
            raise ValueError("A head is a number, a colon and 64 hexadecimal digits.")
        return cls(int(found[1]), bytes.fromhex(found[2]))


#: The head of a log without entries.
EMPTY: Final = AuditHead(FIRST_SEQUENCE - 1, GENESIS)


def next_entry(
    head: AuditHead,
    audit: AuditContext,
    subject: AuditSubject,
    before: Document | None,
    after: Document | None,
) -> AuditEntry:
    """Return the entry of a change, chained to the newest one.

    Args:
        head: The log's head.
        audit: Who makes the change and why.
        subject: What it changes.
        before: The subject before the change; None if it did not exist.
        after: The subject after the change; None if it does not exist any more.
    """
    unsealed = AuditEntry(
        sequence=head.sequence + 1,
        at=audit.at,
        operator=audit.operator,
        role=audit.role,
        action=audit.action,
        subject_kind=subject.kind.value,
        subject=subject.id,
        population=subject.population,
        reason=audit.reason,
        before_json=None if before is None else canonical_json(before),
        after_json=None if after is None else canonical_json(after),
        previous_digest=head.digest,
        digest=b"",
    )
    return replace(unsealed, digest=unsealed.computed_digest())

"""Verification of a chain of entries, page by page: the first broken entry is named, with what is wrong."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from keyflock_server.audit.entry import EMPTY, FIRST_SEQUENCE, AuditEntry, AuditHead

#: How far from its place an entry that was moved is recognised.
_REACH: Final = 1_000


class BreakKind(StrEnum):
    """What is wrong with a chain."""

    #: A field of the entry is not what its digest covers, or the entry does not continue the one before.
    CHANGED = "changed"
    #: There is no entry of this number, but later ones.
    MISSING = "missing"
    #: The entry was written under another number.
    REORDERED = "reordered"
    #: The newest entries are gone, or the log does not end where its head says.
    TRUNCATED = "truncated"


@dataclass(frozen=True, slots=True)
class BrokenEntry:
    """The first entry at which a chain is broken."""

    sequence: int
    kind: BreakKind
    #: A sentence for an operator.
    detail: str


class ChainVerifier:
    """Verifies a log's entries, which it is given in ascending order.

    Args:
        known: A head that was kept elsewhere; the log must have that entry.
        start: The head of what was verified before, to go on from there.
    """

    def __init__(self, known: AuditHead | None = None, start: AuditHead = EMPTY) -> None:
        self._known = known
        #: The last entry that was verified.
        self.head = start

    def add(self, entries: Iterable[AuditEntry]) -> BrokenEntry | None:
        """Verify the next entries; return the first broken one, or None if all continue the chain."""
        for entry in entries:
            if broken := self._check(entry):
                return broken
            self.head = AuditHead(entry.sequence, entry.digest)
        return None

    def finish(self, end: AuditHead) -> BrokenEntry | None:
        """Return what is wrong with the end of the log, once all entries were added; None if nothing is.

        Args:
            end: The head that is stored beside the log, read when there were no more entries.
        """
        newest = end if self._known is None or end.sequence >= self._known.sequence else self._known
        if self.head.sequence < newest.sequence:
            detail = (
                f"The log ends with entry {self.head.sequence}, but there was an entry {newest.sequence}."
            )
            return BrokenEntry(self.head.sequence + 1, BreakKind.TRUNCATED, detail)
        if self.head != end:
            detail = f"The stored head is entry {end.sequence}, not this newest one with its digest."
            return BrokenEntry(self.head.sequence, BreakKind.CHANGED, detail)
        return None

    def _check(self, entry: AuditEntry) -> BrokenEntry | None:
        expected = self.head.sequence + 1
        if entry.sequence > expected:
            return BrokenEntry(expected, BreakKind.MISSING, f"After {expected - 1} comes {entry.sequence}.")
        if entry.sequence < expected:
            return BrokenEntry(entry.sequence, BreakKind.REORDERED, f"It comes after {expected - 1}.")
        if entry.computed_digest() != entry.digest:
            return _mismatch(entry)
        if entry.previous_digest != self.head.digest:
            detail = f"It does not continue entry {expected - 1}: one of both was written anew."
            return BrokenEntry(expected, BreakKind.CHANGED, detail)
        if (
            self._known is not None
            and self._known.sequence == expected
            and self._known.digest != entry.digest
        ):
            detail = "Its digest is not the one that was kept elsewhere: the log was written anew."
            return BrokenEntry(expected, BreakKind.CHANGED, detail)
        return None


def _mismatch(entry: AuditEntry) -> BrokenEntry:
    for sequence in range(max(FIRST_SEQUENCE, entry.sequence - _REACH), entry.sequence + _REACH):
        if entry.computed_digest(sequence) == entry.digest:
            detail = f"It was written as entry {sequence}."
            return BrokenEntry(entry.sequence, BreakKind.REORDERED, detail)
    detail = "Its fields are not those that its digest covers."
    return BrokenEntry(entry.sequence, BreakKind.CHANGED, detail)

"""An entry's digest covers all that it says and the entry before; the first broken entry is named."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.differences import FieldChange, field_changes
from keyflock_server.audit.entry import (
    EMPTY,
    AuditEntry,
    AuditHead,
    AuditSubject,
    SubjectKind,
    next_entry,
)
from keyflock_server.audit.verification import BreakKind, BrokenEntry, ChainVerifier

AT = datetime(2026, 11, 30, 12, 0, 0, 1, tzinfo=UTC)
AUDIT = AuditContext(operator="ann", role="operator", reason="too slow", action="task.pause", at=AT)
SUBJECT = AuditSubject(kind=SubjectKind.TASK, id="t", population="en")


def chain(length: int) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    head = EMPTY
    for number in range(length):
        entries.append(next_entry(head, AUDIT, SUBJECT, {"n": number}, {"n": number + 1}))
        head = AuditHead(entries[-1].sequence, entries[-1].digest)
    return entries


def head_of(entries: list[AuditEntry]) -> AuditHead:
    return AuditHead(entries[-1].sequence, entries[-1].digest)


def verify(entries: list[AuditEntry], end: AuditHead, known: AuditHead | None = None) -> BrokenEntry | None:
    verifier = ChainVerifier(known)
    return verifier.add(entries) or verifier.finish(end)


def broken_at(found: BrokenEntry | None) -> tuple[int, BreakKind] | None:
    return None if found is None else (found.sequence, found.kind)


def test_the_digest_of_an_entry_is_a_literal_that_never_changes() -> None:
    (entry,) = chain(1)

    assert (entry.sequence, entry.before_json, entry.after_json) == (1, '{"n":0}', '{"n":1}')
    assert entry.digest.hex() == "d1ee7050168aaf42d188a89f3930d7399a5aac43c7c89cbb7aca2e10528c3321"


def test_a_whole_chain_is_verified_in_pages_and_ends_in_its_head() -> None:
    entries = chain(5)
    first = ChainVerifier(head_of(entries[:2]))
    assert first.add(entries[:3]) is None
    then = ChainVerifier(start=first.head)

    assert then.add(entries[3:]) is None
    assert then.finish(head_of(entries)) is None
    assert then.head == head_of(entries)
    assert verify([], EMPTY) is None


@pytest.mark.parametrize(
    "change",
    [
        {"at": datetime(2026, 11, 30, 12, 0, 0, 2, tzinfo=UTC)},
        {"operator": "eve"},
        {"role": "admin"},
        {"action": "task.resume"},
        {"subject_kind": "round"},
        {"subject": "u"},
        {"population": None},
        {"reason": ""},
        {"before_json": None},
        {"after_json": '{"n":9}'},
        {"previous_digest": bytes(32)},
        {"digest": bytes(32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_entry_of_which_any_field_was_changed_is_named(change: dict[str, Any]) -> None:
    entries = chain(4)
    entries[2] = replace(entries[2], **change)

    assert broken_at(verify(entries, head_of(chain(4)))) == (3, BreakKind.CHANGED)


def test_an_entry_that_was_changed_and_sealed_again_breaks_the_chain_at_the_next_one() -> None:
    entries = chain(4)
    forged = replace(entries[1], operator="eve")
    entries[1] = replace(forged, digest=forged.computed_digest())

    assert broken_at(verify(entries, head_of(entries))) == (3, BreakKind.CHANGED)


@pytest.mark.parametrize("gone", [1, 2, 4])
def test_a_missing_entry_is_named(gone: int) -> None:
    entries = chain(5)
    del entries[gone - 1]

    assert broken_at(verify(entries, head_of(chain(5)))) == (gone, BreakKind.MISSING)


def test_of_a_swapped_pair_the_first_is_named() -> None:
    entries = chain(5)
    one, two = entries[1], entries[3]
    entries[1], entries[3] = replace(two, sequence=2), replace(one, sequence=4)

    found = verify(entries, head_of(entries))

    assert broken_at(found) == (2, BreakKind.REORDERED)
    assert found is not None
    assert "entry 4" in found.detail


def test_entries_cut_off_the_end_are_missed_by_the_stored_head_or_by_one_kept_elsewhere() -> None:
    entries = chain(5)

    assert broken_at(verify(entries[:3], head_of(entries))) == (4, BreakKind.TRUNCATED)
    both_cut = verify(entries[:3], head_of(entries[:3]), head_of(entries))
    assert broken_at(both_cut) == (4, BreakKind.TRUNCATED)
    assert broken_at(verify(entries, head_of(entries[:3]))) == (5, BreakKind.CHANGED)


def test_a_chain_that_was_written_anew_is_found_out_only_by_a_head_that_was_kept_elsewhere() -> None:
    known = head_of(chain(3))
    anew = [replace(entry, operator="eve") for entry in chain(5)]
    head = EMPTY
    for number, entry in enumerate(anew):
        linked = replace(entry, previous_digest=head.digest)
        anew[number] = replace(linked, digest=linked.computed_digest())
        head = AuditHead(linked.sequence, anew[number].digest)

    assert verify(anew, head) is None
    assert broken_at(verify(anew, head, known)) == (3, BreakKind.CHANGED)


def test_a_head_is_written_and_read_as_text_and_anything_else_is_refused() -> None:
    head = head_of(chain(2))

    assert AuditHead.parse(str(head)) == head
    for text in ("", "2", "x:00", "2:zz", "2:00", "-1:" + "00" * 32):
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            AuditHead.parse(text)


def test_a_device_never_goes_into_the_log_by_its_id() -> None:
    with pytest.raises(ValueError, match="keyed digest"):
        AuditSubject.of_change(AUDIT, SubjectKind.DEVICE, "a1b2", None, {})

    subject = AuditSubject.of_change(AUDIT.about("digest"), SubjectKind.DEVICE, "a1b2", {}, None)
    assert subject.id == "digest"


def test_the_differences_of_two_documents_name_fields_at_any_depth() -> None:
    before = '{"spec":{"round":{"goal":10,"mode":"sync"}},"status":"active","tags":["a"]}'
    after = '{"spec":{"round":{"goal":20,"mode":"sync"}},"tags":["a","b"],"note":"x","status":"active"}'

    assert field_changes(before, after) == [
        FieldChange("note", None, "x"),
        FieldChange("spec.round.goal", 10, 20),
        FieldChange("tags", ["a"], ["a", "b"]),
    ]
    assert field_changes(None, '{"a":1}') == [FieldChange("a", None, 1)]
    assert field_changes('{"a":1}', '{"a":1}') == []

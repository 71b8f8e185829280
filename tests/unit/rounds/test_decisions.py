"""What is due: nothing while there is hope, a close with enough, an abandonment without."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace as replace_struct

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.decisions import Due, Pending, due, is_goal_met, may_flush
from keyflock_server.rounds.round import (
    CloseRequested,
    Counted,
    Expired,
    Failed,
    Round,
    RoundEvent,
    SlotTaken,
    advance,
)
from keyflock_server.rounds.task_validation import parse_task

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATE = NOW + timedelta(seconds=600)
SPEC = parse_task(
    '[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 10\nminimum = 8\nover_selection = 0.2\n'
)


def after(*events: RoundEvent) -> Round:
    current = Round(
        id=RoundId("t-1"),
        task=TaskName("t"),
        population=PopulationName("en"),
        sequence=1,
        base_version=ModelVersion(0),
        spec=SPEC,
        opened_at=NOW,
        deadline_at=LATE,
    )
    for event in events:
        current = advance(current, event, NOW)
    return current


ALL = [SlotTaken()] * 12


@pytest.mark.parametrize(
    ("current", "pending", "now", "is_due"),
    [
        (after(*ALL), 0, NOW, Due.NOTHING),
        (after(*ALL, Counted(10, 10.0)), 0, NOW, Due.CLOSE),
        (after(*ALL, Counted(8, 8.0)), 0, NOW, Due.NOTHING),
        (after(*ALL, Counted(8, 8.0)), 0, LATE, Due.CLOSE),
        (after(*ALL, Counted(4, 4.0)), 4, LATE, Due.CLOSE),
        (after(*ALL, Counted(6, 6.0)), 3, LATE, Due.CARRY),
        (after(*ALL), 4, LATE, Due.CARRY),
        (after(*ALL), 3, LATE, Due.ABANDON),
        # What was given back, or ran out of time, is free for others: there is hope until the deadline.
        (after(*ALL, Counted(8, 8.0), *[Failed()] * 4), 0, NOW, Due.NOTHING),
        (after(*ALL, *[Failed()] * 12), 0, NOW, Due.NOTHING),
        (after(*ALL, Expired(12)), 0, NOW, Due.NOTHING),
        (after(*ALL, Expired(12)), 0, LATE, Due.ABANDON),
        (after(*ALL, Counted(8, 8.0), Expired(4)), 0, LATE, Due.CLOSE),
        # All slots are taken and everybody has reported, too few for a last flush: nobody else can come.
        (after(*ALL, Counted(9, 9.0)), 3, NOW, Due.CLOSE),
        (after(*ALL, Counted(9, 9.0), Expired(1), SlotTaken()), 3, NOW, Due.CLOSE),
    ],
)
def test_what_is_due(current: Round, pending: int, now: datetime, is_due: Due) -> None:
    assert due(current, Pending(pending, pending), now) is is_due


@pytest.mark.fault("F11")
@pytest.mark.parametrize(
    ("current", "pending", "is_due"),
    [
        # Twelve slots and ten phones, of which two gave their work back: nobody is left to report.
        (after(*ALL[:10], Counted(8, 8.0), *[Failed()] * 2), 0, Due.CLOSE),
        (after(*ALL[:10], Counted(4, 4.0), *[Failed()] * 2), 4, Due.CLOSE),
        # Too few: the next round begins with them.
        (after(*ALL[:10], Counted(7, 7.0), *[Failed()] * 3), 0, Due.CARRY),
        (after(*ALL[:10], Counted(4, 4.0), *[Failed()] * 3), 3, Due.CARRY),
        # Somebody still works on it.
        (after(*ALL[:10], Counted(8, 8.0), Failed()), 0, Due.NOTHING),
        # Nothing would be gained: there is no report, or nobody took a slot.
        (after(*ALL[:10], *[Failed()] * 10), 0, Due.NOTHING),
        (after(), 0, Due.NOTHING),
    ],
)
def test_a_deserted_round_ends_before_its_deadline_if_its_reports_are_of_use(
    current: Round, pending: int, is_due: Due
) -> None:
    assert due(current, Pending(pending, pending), NOW, is_deserted=True) is is_due
    assert due(current, Pending(pending, pending), NOW, is_deserted=False) is Due.NOTHING


@pytest.mark.fault("F11")
def test_a_deserted_round_that_brought_its_reports_along_is_not_carried_again_and_again() -> None:
    carried = replace(after(), carried=7)

    assert due(carried, Pending(0, 0), NOW, is_deserted=True) is Due.NOTHING


@pytest.mark.parametrize(
    ("current", "pending", "is_due"),
    [
        (after(*ALL, Counted(8, 8.0)), 0, Due.CLOSE),
        (after(*ALL, Counted(4, 4.0)), 4, Due.CLOSE),
        (after(*ALL, Counted(4, 4.0)), 3, Due.ABANDON),
        (after(), 0, Due.ABANDON),
    ],
)
def test_a_round_whose_result_nobody_asks_for_ends_as_at_its_deadline(
    current: Round, pending: int, is_due: Due
) -> None:
    evaluation = replace_struct(SPEC.task, kind=TaskKind.EVALUATE)
    current = replace(current, spec=replace_struct(SPEC, task=evaluation))

    assert due(current, Pending(pending, pending), NOW, is_moot=True) is is_due
    assert due(current, Pending(pending, pending), NOW, is_moot=False) is Due.NOTHING


def test_a_flush_leaves_neither_too_few_behind_nor_too_few_to_come() -> None:
    counts = [count for count in range(13) if may_flush(after(*ALL), Pending(count, count))]

    assert counts == [4, 5, 6, 10, 11, 12]


@pytest.mark.fault("D3")
def test_a_flush_is_as_large_as_its_distinct_reports() -> None:
    assert not may_flush(after(*ALL), Pending(6, 3))
    assert may_flush(after(*ALL), Pending(6, 4))


@pytest.mark.fault("D3")
@pytest.mark.parametrize(("distinct", "is_due"), [(3, Due.ABANDON), (4, Due.CLOSE)])
def test_at_the_deadline_a_round_closes_only_with_what_may_be_flushed(distinct: int, is_due: Due) -> None:
    assert due(after(*ALL), Pending(10, distinct), LATE) is is_due


@pytest.mark.fault("D3")
def test_reports_that_are_not_distinct_do_not_keep_others_out() -> None:
    assert not is_goal_met(after(*ALL), Pending(11, 3))
    assert is_goal_met(after(*ALL), Pending(11, 4))


def test_the_goal_counts_what_is_pending() -> None:
    assert is_goal_met(after(*ALL, Counted(6, 6.0)), Pending(4, 4))
    assert not is_goal_met(after(*ALL, Counted(6, 6.0)), Pending(3, 3))


def test_a_goal_that_is_counted_needs_nothing_pending() -> None:
    assert is_goal_met(after(*ALL, Counted(10, 10.0)), Pending(0, 0))
    assert not is_goal_met(after(*ALL, Counted(9, 9.0)), Pending(0, 0))
    assert is_goal_met(after(*ALL, CloseRequested()), Pending(0, 0))


def test_a_clock_may_be_a_minute_behind_the_rounds_opening() -> None:
    minute = timedelta(seconds=60)

    assert due(after(*ALL), Pending(0, 0), NOW - minute) is Due.NOTHING
    assert due(after(*ALL), Pending(0, 0), NOW - minute - timedelta(microseconds=1)) is Due.RESET_DEADLINE


def test_only_a_round_that_collects_is_due() -> None:
    assert due(after(*ALL, Counted(10, 10.0), CloseRequested()), Pending(0, 0), LATE) is Due.NOTHING


def test_a_missed_round_is_carried_only_where_the_task_says_so_and_it_trains() -> None:
    for line, kind, is_due in (
        ("", "train", Due.CARRY),
        ('on_miss = "abandon"', "train", Due.ABANDON),
        ("", "personalize", Due.ABANDON),
        ("", "evaluate", Due.ABANDON),
    ):
        spec = parse_task(
            f'[task]\nname = "t"\npopulation = "en"\nkind = "{kind}"\n[round]\ngoal = 10\n{line}\n'
        )
        assert due(replace(after(SlotTaken(), Counted(1, 1.0)), spec=spec), Pending(0, 0), LATE) is is_due


def test_a_buffer_waits_for_its_goal_however_late_it_is() -> None:
    spec = parse_task('[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 10\nmode = "async"\n')
    buffer = replace(after(), spec=spec)

    assert due(replace(buffer, counted=9), Pending(9, 9), LATE) is Due.NOTHING
    assert due(replace(buffer, counted=10), Pending(0, 0), NOW) is Due.CLOSE


def test_there_is_hope_while_one_device_has_not_answered() -> None:
    waiting = after(*ALL, Counted(8, 8.0))

    assert due(waiting, Pending(3, 3), NOW) is Due.NOTHING
    assert due(waiting, Pending(4, 4), NOW) is Due.CLOSE

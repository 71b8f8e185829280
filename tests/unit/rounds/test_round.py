"""Each event of a round at its limits: what it changes, and what it may not say."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.rounds.round import (
    Abandoned,
    Accepted,
    Cancelled,
    Carried,
    CloseRequested,
    Counted,
    DeadlineReset,
    Discarded,
    Expired,
    Failed,
    Held,
    IllegalRoundEvent,
    Merged,
    PartialsDeleted,
    Phase,
    Published,
    Rebased,
    Round,
    RoundEvent,
    SlotTaken,
    Stepped,
    Summarised,
    advance,
)
from keyflock_server.rounds.task_validation import parse_task

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
TASK = '[task]\nname = "t"\npopulation = "en"\nkind = "{}"\n[round]\ngoal = 4\n{}\n'
TRAIN = TASK.format("train", "over_selection = 0.5")
BUFFER = TASK.format("train", 'mode = "async"')
PERSONALIZE = TASK.format("personalize", "over_selection = 0.5")


def after(*events: RoundEvent, task: str = TRAIN, carried: int = 0) -> Round:
    current = Round(
        id=RoundId("t-1"),
        task=TaskName("t"),
        population=PopulationName("en"),
        sequence=1,
        base_version=ModelVersion(0),
        spec=parse_task(task),
        opened_at=NOW,
        deadline_at=NOW + timedelta(seconds=600),
        carried=carried,
    )
    for event in events:
        current = advance(current, event, NOW)
    return current


@pytest.mark.parametrize(
    "event",
    [
        *(Counted(reports, 1.0) for reports in (0, -1)),
        *(Counted(1, weight) for weight in (0.0, -1.0, math.inf, math.nan)),
    ],
)
def test_what_no_mean_can_be_taken_of_is_not_counted(event: Counted) -> None:
    with pytest.raises(IllegalRoundEvent, match="counts nothing that a mean can be taken of"):
        advance(after(SlotTaken()), event, NOW)


def test_reports_and_their_weights_add_up() -> None:
    current = after(*[SlotTaken()] * 3, Counted(1, 0.25), Counted(2, 1.5), carried=2)

    assert (current.counted, current.reports, current.weight) == (3, 5, 1.75)
    assert after(SlotTaken(), Counted(1, 5e-324)).weight == 5e-324


def test_as_many_devices_take_slots_as_there_are() -> None:
    full = after(*[SlotTaken()] * 6)

    assert (full.slots, full.slots_taken, full.slots_left) == (6, 6, 0)
    with pytest.raises(IllegalRoundEvent, match="all 6 slots are taken"):
        advance(full, SlotTaken(), NOW)
    for freed in (Failed(), Expired(1)):
        again = advance(full, freed, NOW)
        assert again.slots_left == 1
        assert advance(again, SlotTaken(), NOW).slots_left == 0


def test_a_buffer_has_no_last_slot_and_counts_what_it_did_not_assign() -> None:
    buffer = after(*[SlotTaken()] * 50, task=BUFFER)

    assert buffer.assigned == 50
    assert advance(buffer, Counted(51, 51.0), NOW).outstanding == -1


def test_a_round_has_slots_only_while_it_collects() -> None:
    assert after(SlotTaken()).slots_left == 5
    assert after(SlotTaken(), CloseRequested()).slots_left == 0


@pytest.mark.parametrize("last", [Counted(1, 1.0), Failed(), Expired(1)])
def test_no_more_devices_answer_than_were_assigned(last: RoundEvent) -> None:
    everybody = after(*[SlotTaken()] * 3, Counted(1, 1.0), Failed(), Expired(1))

    assert everybody.outstanding == 0
    with pytest.raises(IllegalRoundEvent, match="would count more devices than the 3 assigned"):
        advance(everybody, last, NOW)


@pytest.mark.parametrize("assignments", [0, -1])
def test_an_expiry_of_none_says_nothing(assignments: int) -> None:
    with pytest.raises(IllegalRoundEvent, match="says nothing"):
        advance(after(SlotTaken()), Expired(assignments), NOW)


def test_expired_assignments_are_counted_by_number() -> None:
    assert after(*[SlotTaken()] * 4, Expired(1), Expired(2)).expired == 3


@pytest.mark.parametrize("reports", [1, 3])
def test_a_round_is_abandoned_only_with_the_reports_that_it_has(reports: int) -> None:
    two = after(SlotTaken(), Counted(1, 1.0), carried=1)

    assert advance(two, Abandoned("few", 2), NOW).detail == "few"
    with pytest.raises(IllegalRoundEvent, match=f"{reports} reports would be given up, and 2 are there"):
        advance(two, Abandoned("few", reports), NOW)


@pytest.mark.parametrize("event", [Carried("why"), Cancelled("why"), Discarded("why")])
def test_a_round_that_ends_early_says_when_and_why(event: RoundEvent) -> None:
    ended = advance(after(SlotTaken()), event, LATER)

    assert (ended.detail, ended.closed_at, ended.is_over, ended.is_committed) == ("why", LATER, True, False)


def test_a_round_ends_when_it_is_published_and_not_when_its_partials_are_deleted() -> None:
    stepped = after(CloseRequested(), Merged(), Stepped('{"step_norm":1.0}'))
    published = advance(stepped, Published(ModelVersion(7)), LATER)
    closed = advance(published, PartialsDeleted(), LATER + timedelta(hours=1))

    assert (stepped.closed_at, published.closed_at, closed.closed_at) == (None, LATER, LATER)
    assert (stepped.is_committed, published.is_committed, closed.is_committed) == (False, True, True)
    assert (published.is_over, closed.is_over) == (False, True)
    assert (closed.result_version, closed.figures_json) == (7, '{"step_norm":1.0}')


def test_a_summary_keeps_its_figures() -> None:
    assert (
        after(CloseRequested(), Merged(), Summarised('{"a":1}'), task=PERSONALIZE).figures_json == '{"a":1}'
    )


@pytest.mark.parametrize(
    ("task", "event"), [(PERSONALIZE, Stepped()), (TRAIN, Summarised("{}")), (BUFFER, Summarised("{}"))]
)
def test_an_event_of_the_other_kind_of_round_is_refused(task: str, event: RoundEvent) -> None:
    with pytest.raises(IllegalRoundEvent, match="does not happen to a round of kind"):
        advance(after(CloseRequested(), Merged(), task=task), event, NOW)


def test_an_accepted_version_is_not_held_again_but_the_one_that_replaces_it_is() -> None:
    accepted = after(CloseRequested(), Merged(), Stepped("{}"), Held("Too long."), Accepted("It is fine."))

    assert (accepted.is_accepted, accepted.detail) == (True, "Too long. Accepted: It is fine.")
    with pytest.raises(IllegalRoundEvent, match="an operator has accepted"):
        advance(accepted, Held("Too long."), NOW)
    rebased = advance(accepted, Rebased(), NOW)
    assert (rebased.is_accepted, rebased.detail, rebased.figures_json) == (False, "", "")
    again = advance(advance(rebased, Stepped("{}"), NOW), Held("Too long."), NOW)
    assert (again.phase, again.detail) == (Phase.HELD, "Too long.")


def test_a_deadline_begins_again_as_long_as_it_was() -> None:
    reset = advance(after(SlotTaken()), DeadlineReset(), LATER)

    assert (reset.opened_at, reset.deadline_at) == (LATER, LATER + timedelta(seconds=600))
    assert reset.closed_at is None


@pytest.mark.parametrize("event", [SlotTaken(), CloseRequested(), Cancelled("asked")])
def test_no_other_event_moves_the_deadline(event: RoundEvent) -> None:
    before = after(SlotTaken())

    moved = advance(before, event, LATER)

    assert (moved.opened_at, moved.deadline_at) == (before.opened_at, before.deadline_at)


def test_an_event_that_has_no_row_names_the_phase() -> None:
    with pytest.raises(IllegalRoundEvent, match="Merged does not happen to a round that is collecting"):
        advance(after(), Merged(), NOW)

"""The round's table under every sequence of events: illegal ones change nothing, the counts always add up."""

import itertools
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.rounds.round import (
    COMMITTED_PHASES,
    FINAL_PHASES,
    KINDS_OF_EVENT,
    LIVE_PHASES,
    TRANSITIONS,
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
TASK = '[task]\nname = "t"\npopulation = "en"\nkind = "{}"\n[round]\ngoal = 6\n{}\n'
SPECS = {
    "train": parse_task(TASK.format("train", "over_selection = 0.5")),
    "personalize": parse_task(TASK.format("personalize", "over_selection = 0.5")),
    "evaluate": parse_task(TASK.format("evaluate", "over_selection = 0.5")),
    "buffer": parse_task(TASK.format("train", 'mode = "async"')),
}
#: The table as the document of the round draws it, row by row: what is stored is these words.
TABLE: dict[str, dict[type[RoundEvent], str]] = {
    "collecting": {
        **dict.fromkeys([SlotTaken, Counted, Failed, Expired, DeadlineReset], "collecting"),
        CloseRequested: "closing",
        Carried: "carried",
        Abandoned: "abandoned",
        Discarded: "discarded",
        Cancelled: "cancelled",
    },
    "closing": {Merged: "merged", Discarded: "discarded", Cancelled: "cancelled"},
    "merged": {
        Stepped: "stepped",
        Summarised: "published",
        Discarded: "discarded",
        Cancelled: "cancelled",
    },
    "stepped": {
        Rebased: "merged",
        Held: "held",
        Published: "published",
        Discarded: "discarded",
        Cancelled: "cancelled",
    },
    "held": {Accepted: "stepped", Discarded: "discarded", Cancelled: "cancelled"},
    "published": {PartialsDeleted: "closed"},
    **{over: {} for over in ("closed", "carried", "abandoned", "discarded", "cancelled")},
}
OVER = {"closed", "carried", "abandoned", "discarded", "cancelled"}
#: What may happen, by type; ``test_every_event_of_the_table_is_tried`` holds it to the table.
OF_TYPE: dict[type[RoundEvent], st.SearchStrategy[RoundEvent]] = {
    SlotTaken: st.builds(SlotTaken),
    Counted: st.builds(
        Counted, st.integers(-1, 8), st.sampled_from([-1.0, 0.0, 0.5, 8.0, math.inf, math.nan])
    ),
    Failed: st.builds(Failed),
    Expired: st.builds(Expired, st.integers(-1, 8)),
    DeadlineReset: st.builds(DeadlineReset),
    CloseRequested: st.builds(CloseRequested),
    Merged: st.builds(Merged),
    Stepped: st.builds(Stepped, st.sampled_from(["", '{"step_norm":1.0}'])),
    Held: st.builds(Held, st.just("too long")),
    Accepted: st.builds(Accepted, st.just("it is fine")),
    Discarded: st.builds(Discarded, st.just("it is not")),
    Rebased: st.builds(Rebased),
    Published: st.builds(Published, st.just(ModelVersion(1))),
    Summarised: st.builds(Summarised, st.just("{}")),
    PartialsDeleted: st.builds(PartialsDeleted),
    Carried: st.builds(Carried, st.just("few")),
    Abandoned: st.builds(Abandoned, st.just("few"), st.integers(0, 3)),
    Cancelled: st.builds(Cancelled, st.just("asked")),
}
EVENTS = st.one_of(*OF_TYPE.values())
#: Long lives are rare among events drawn at random: these are made to go on.
ONWARDS = (
    *(
        SlotTaken(),
        Counted(1, 1.0),
        CloseRequested(),
        Merged(),
        Stepped('{"step_norm":1.0}'),
        Held("too long"),
    ),
    *(Accepted("it is fine"), Published(ModelVersion(1))),
)


def opened(kind: str) -> Round:
    return Round(
        id=RoundId("t-1"),
        task=TaskName("t"),
        population=PopulationName("en"),
        sequence=1,
        base_version=ModelVersion(0),
        spec=SPECS[kind],
        opened_at=NOW,
        deadline_at=NOW + timedelta(seconds=600),
    )


class RoundMachine(RuleBasedStateMachine):
    """A round that anything happens to, an hour after the other, and the events of what did."""

    kind = "train"

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.round = opened(self.kind)
        self.events: list[tuple[RoundEvent, datetime]] = []

    @rule(event=EVENTS)
    def happens(self, event: RoundEvent) -> None:
        before, copied = self.round, replace(self.round)
        self.now += timedelta(hours=1)
        try:
            self.round = advance(before, event, self.now)
        except IllegalRoundEvent:
            assert self.round is before
            assert before == copied
            return
        assert before == copied
        self.events.append((event, self.now))
        assert TABLE[before.phase.value][type(event)] == self.round.phase.value
        assert before.phase.value not in OVER
        assert not isinstance(event, Abandoned) or event.reports == before.counted

    @rule(event=st.sampled_from(ONWARDS))
    def goes_on(self, event: RoundEvent) -> None:
        self.happens(event)

    @rule(data=st.data())
    def something_happens_to_a_round_that_is_over(self, data: st.DataObject) -> None:
        if self.round.phase.value in OVER:
            before = self.round
            self.happens(data.draw(EVENTS))
            assert self.round is before

    @invariant()
    def the_counts_sum_to_the_cohort(self) -> None:
        current = self.round
        ended = current.counted + current.failed + current.expired
        assert current.assigned == ended + current.outstanding
        assert min(current.assigned, current.counted, current.failed, current.expired) >= 0
        if self.kind != "buffer":  # it counts what was assigned before it was there
            assert 0 <= current.outstanding <= current.assigned
            assert current.slots_taken <= current.spec.round.slots

    @invariant()
    def the_counts_are_what_happened(self) -> None:
        happened = [event for event, _ in self.events]
        assert self.round.assigned == sum(isinstance(event, SlotTaken) for event in happened)
        assert self.round.failed == sum(isinstance(event, Failed) for event in happened)
        expired = [event.assignments for event in happened if isinstance(event, Expired)]
        assert self.round.expired == sum(expired)
        assert self.round.counted == sum(event.reports for event in happened if isinstance(event, Counted))

    @invariant()
    def what_is_counted_weighs(self) -> None:
        assert math.isfinite(self.round.weight)
        assert (self.round.weight > 0.0) == (self.round.counted > 0)

    @invariant()
    def replaying_its_events_gives_the_same_round(self) -> None:
        replayed = opened(self.kind)
        for event, at in self.events:
            replayed = advance(replayed, event, at)
        assert replayed == self.round

    @invariant()
    def only_what_ended_has_an_end(self) -> None:
        has_ended = self.round.phase.value in {*OVER, "published"}
        assert (self.round.closed_at is not None) == has_ended

    @invariant()
    def its_time_is_as_long_as_ever(self) -> None:
        assert self.round.deadline_at - self.round.opened_at == timedelta(seconds=600)

    @invariant()
    def what_was_held_is_published_only_when_it_was_accepted(self) -> None:
        deciding = (Stepped, Held, Accepted, Rebased, Published)
        decisions = [type(event) for event, _ in self.events if isinstance(event, deciding)]
        assert all(after is Accepted for before, after in itertools.pairwise(decisions) if before is Held)
        assert all(before is Held for before, after in itertools.pairwise(decisions) if after is Accepted)
        assert self.round.is_accepted == (
            decisions[-1:] == [Accepted] or decisions[-2:] == [Accepted, Published]
        )

    @invariant()
    def a_round_that_waits_or_was_given_up_says_why(self) -> None:
        if self.round.phase in {Phase.HELD, Phase.DISCARDED}:
            assert self.round.detail

    @invariant()
    def it_ends_as_its_kind_does(self) -> None:
        happened = {type(event) for event, _ in self.events}
        is_summarised = self.kind in {"personalize", "evaluate"}
        assert Published not in happened or not is_summarised
        assert Summarised not in happened or is_summarised


class PersonalizeRoundMachine(RoundMachine):
    kind = "personalize"


class EvaluateRoundMachine(RoundMachine):
    kind = "evaluate"


class BufferMachine(RoundMachine):
    kind = "buffer"


TestRoundMachine = RoundMachine.TestCase
TestPersonalizeRoundMachine = PersonalizeRoundMachine.TestCase
TestEvaluateRoundMachine = EvaluateRoundMachine.TestCase
TestBufferMachine = BufferMachine.TestCase


def test_the_table_is_the_documents() -> None:
    assert {(phase.value, event): after.value for (phase, event), after in TRANSITIONS.items()} == {
        (phase, event): after for phase, row in TABLE.items() for event, after in row.items()
    }
    assert {phase.value for phase in Phase} == TABLE.keys()
    assert {phase.value for phase in FINAL_PHASES} == OVER
    assert {phase.value for phase in LIVE_PHASES} == TABLE.keys() - OVER
    assert {phase.value for phase in COMMITTED_PHASES} == {"published", "closed"}
    of_training: set[type[RoundEvent]] = {Stepped, Held, Accepted, Rebased}
    assert KINDS_OF_EVENT.keys() == of_training | {Summarised}
    assert all(KINDS_OF_EVENT[event] == {"train"} for event in of_training)
    assert KINDS_OF_EVENT[Summarised] == {"personalize", "evaluate"}


def test_every_event_of_the_table_is_tried() -> None:
    assert OF_TYPE.keys() == {event for _, event in TRANSITIONS} == set(get_args(RoundEvent))


def test_every_row_of_the_table_is_reachable() -> None:
    events: list[RoundEvent] = [
        *(
            SlotTaken(),
            Counted(1, 1.0),
            Failed(),
            Expired(1),
            DeadlineReset(),
            CloseRequested(),
            Merged(),
            Stepped(),
            Rebased(),
        ),
        *(Published(ModelVersion(1)), Summarised("{}"), PartialsDeleted(), Carried(""), Abandoned("", 0)),
        *(Cancelled(""), Expired(1), Held("too long"), Accepted("it is fine"), Discarded("it is not")),
    ]
    reached: set[tuple[Phase, type[RoundEvent]]] = set()
    for kind in SPECS:
        seen, waiting = set[tuple[object, ...]](), [opened(kind)]
        while waiting:
            current = waiting.pop()
            for event in events:
                try:
                    after = advance(current, event, NOW)
                except IllegalRoundEvent:
                    continue
                reached.add((current.phase, type(event)))
                counts = (after.assigned, after.counted, after.failed, after.expired)
                if max(counts) <= 2 and (after.phase, *counts) not in seen:
                    seen.add((after.phase, *counts))
                    waiting.append(after)

    assert reached == TRANSITIONS.keys()

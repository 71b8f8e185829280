"""The round's table under every sequence of events: illegal ones change nothing, the counts always add up."""

import math
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.rounds.round import (
    FINAL_PHASES,
    TRANSITIONS,
    Abandoned,
    Assigned,
    Cancelled,
    CloseRequested,
    Counted,
    Event,
    Failed,
    IllegalEvent,
    Merged,
    PartialsDeleted,
    Phase,
    Published,
    Round,
    Stepped,
    Summarised,
    advance,
)
from keyflock_server.rounds.task import parse_task

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TASK = '[task]\nname = "t"\npopulation = "en"\nkind = "{}"\n[round]\ngoal = 6\nover_selection = 0.5\n'
SPECS = {kind: parse_task(TASK.format(kind)) for kind in ("train", "personalize")}
EVENTS = st.one_of(
    st.builds(Assigned),
    st.builds(Counted, st.integers(-1, 8), st.sampled_from([-1.0, 0.0, 0.5, 8.0, math.inf, math.nan])),
    st.builds(Failed),
    st.sampled_from([CloseRequested(), Merged(), Stepped(), Summarised("{}"), PartialsDeleted()]),
    st.sampled_from([Published(ModelVersion(1)), Cancelled("asked")]),
    st.builds(Abandoned, st.just("few"), st.integers(0, 6)),
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
    kind = "train"

    def __init__(self) -> None:
        super().__init__()
        self.round = opened(self.kind)
        self.legal: list[Event] = []

    @rule(event=EVENTS)
    def happens(self, event: Event) -> None:
        before = self.round
        try:
            self.round = advance(before, event, NOW)
        except IllegalEvent:
            assert self.round is before
            return
        self.legal.append(event)
        assert TRANSITIONS[before.phase, type(event)] is self.round.phase
        assert before.phase not in FINAL_PHASES
        assert not isinstance(event, Abandoned) or event.reports == before.counted

    @invariant()
    def the_counts_sum_to_the_cohort(self) -> None:
        current = self.round
        assert current.assigned == current.counted + current.failed + current.outstanding
        assert 0 <= current.outstanding <= current.assigned <= current.spec.round.slots

    @invariant()
    def what_is_counted_weighs(self) -> None:
        assert math.isfinite(self.round.weight)
        assert (self.round.weight > 0.0) == (self.round.counted > 0)

    @invariant()
    def replaying_its_events_gives_the_same_round(self) -> None:
        replayed = opened(self.kind)
        for event in self.legal:
            replayed = advance(replayed, event, NOW)
        assert replayed == self.round

    @invariant()
    def only_what_ended_has_an_end(self) -> None:
        has_ended = self.round.phase in FINAL_PHASES or self.round.phase is Phase.PUBLISHED
        assert (self.round.closed_at is not None) == has_ended

    @invariant()
    def it_ends_as_its_kind_does(self) -> None:
        happened = {type(event) for event in self.legal}
        assert Published not in happened or self.kind == "train"
        assert Summarised not in happened or self.kind == "personalize"


class PersonalizeRoundMachine(RoundMachine):
    kind = "personalize"


TestRoundMachine = RoundMachine.TestCase
TestPersonalizeRoundMachine = PersonalizeRoundMachine.TestCase

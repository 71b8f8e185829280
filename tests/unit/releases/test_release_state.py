"""The release as a table: what may happen in which phase, and that a stage never narrows."""

import itertools

import pytest

from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.releases.release_state import (
    ACTION_OF,
    PHASE_AFTER,
    TRANSITIONS,
    GateFailed,
    GateInconclusive,
    IllegalReleaseEvent,
    OperatorHeld,
    Promoted,
    ReleaseEvent,
    ReleasePhase,
    ReleaseRolledBack,
    ReleaseState,
    Started,
    Widened,
    Withdrawn,
    advance_release,
    first_release,
)

V = ModelVersion


def after(*events: ReleaseEvent, version: int = 3) -> ReleaseState:
    state = first_release(V(version))
    for event in events:
        state = advance_release(state, event)
    return state


def test_a_candidate_goes_through_its_stages_and_becomes_the_version_for_everybody() -> None:
    staged = after(Started(V(5), 0), Widened(1), Widened(10))

    assert staged == ReleaseState(phase=ReleasePhase.STAGED, version=V(3), candidate=V(5), percent=10)
    assert advance_release(staged, Promoted(V(5))) == ReleaseState(phase=ReleasePhase.PROMOTED, version=V(5))


def test_rolling_back_takes_the_candidate_away_and_leaves_the_version() -> None:
    assert after(Started(V(5), 50), ReleaseRolledBack(V(3))) == ReleaseState(
        phase=ReleasePhase.ROLLED_BACK, version=V(3)
    )


def test_an_inconclusive_candidate_goes_on_and_a_held_one_is_not_moved_by_the_gate() -> None:
    inconclusive = after(Started(V(5), 10), GateInconclusive())
    held = after(Started(V(5), 10), OperatorHeld())

    assert advance_release(inconclusive, Widened(50)).phase is ReleasePhase.STAGED
    assert advance_release(inconclusive, GateFailed()).phase is ReleasePhase.HELD
    for event in (GateFailed(), GateInconclusive()):
        with pytest.raises(IllegalReleaseEvent, match="held"):
            advance_release(held, event)


def test_a_stage_never_narrows_neither_by_widening_nor_by_starting_again() -> None:
    staged = after(Started(V(5), 10))

    for event in (Widened(9), Started(V(5), 9)):
        with pytest.raises(IllegalReleaseEvent, match="only widen"):
            advance_release(staged, event)
    assert advance_release(staged, Started(V(6), 1)).percent == 1  # another candidate


@pytest.mark.parametrize("event", [Started(V(5), 100), Started(V(5), -1), Started(V(3), 10)])
def test_what_is_no_candidate_in_a_stage_is_refused(event: ReleaseEvent) -> None:
    with pytest.raises(IllegalReleaseEvent):
        after(event)


def test_a_withdrawn_version_is_replaced_in_every_phase() -> None:
    for phase in ReleasePhase:
        state = ReleaseState(phase=phase, version=V(3), candidate=V(5), percent=10)

        assert advance_release(state, Withdrawn(V(2))) == ReleaseState(phase=ReleasePhase.IDLE, version=V(2))


def test_an_event_without_a_row_in_the_table_is_refused() -> None:
    events: tuple[ReleaseEvent, ...] = (
        Started(V(5), 99),
        Widened(99),
        GateInconclusive(),
        GateFailed(),
        OperatorHeld(),
        Promoted(V(5)),
        ReleaseRolledBack(V(2)),
        Withdrawn(V(2)),
    )

    for phase, event in itertools.product(ReleasePhase, events):
        state = ReleaseState(phase=phase, version=V(3), candidate=V(5), percent=10)
        if (phase, type(event)) in TRANSITIONS:
            assert advance_release(state, event).phase is TRANSITIONS[phase, type(event)]
        else:
            with pytest.raises(IllegalReleaseEvent):
                advance_release(state, event)


def test_a_stage_of_nobody_serves_its_candidate_to_no_keyboard() -> None:
    assert after(Started(V(5), 0)).served == {3}
    assert after(Started(V(5), 1)).served == {3, 5}


def test_the_row_of_an_event_says_the_phase_that_the_event_leads_to() -> None:
    for (_, event), phase in TRANSITIONS.items():
        assert PHASE_AFTER[ACTION_OF[event]] is phase

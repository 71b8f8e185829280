"""The table that a device follows, looked at as a table."""

from keyflock_client_sim.device.events import CallLost, Event, Interrupted, Woke
from keyflock_client_sim.device.states import ANSWERS, TRANSITIONS, State


def test_every_state_has_a_row_and_every_row_a_way_out() -> None:
    assert set(TRANSITIONS) == set(State)
    for state, row in TRANSITIONS.items():
        assert any(target is not state for targets in row.values() for target in targets)


def test_every_state_can_be_reached_from_the_first() -> None:
    reached = {State.UNENROLLED}
    while grown := {t for s in reached for targets in TRANSITIONS[s].values() for t in targets} - reached:
        reached |= grown

    assert reached == set(State)


def test_every_state_leads_back_to_rest() -> None:
    leads = {State.RESTING}
    while grown := {s for s in State if any(targets & leads for targets in TRANSITIONS[s].values())} - leads:
        leads |= grown

    assert leads == set(State)


def test_a_report_that_was_made_is_never_given_back() -> None:
    for state in (State.OFFERING, State.UPLOADING):
        assert all(State.RETURNING not in targets for targets in TRANSITIONS[state].values())


def test_whatever_calls_survives_a_lost_call_and_an_interruption() -> None:
    calling = set(State) - {State.RESTING, State.TRAINING}

    for state in calling:
        events: set[type[Event]] = set(TRANSITIONS[state])
        assert {Woke, CallLost, Interrupted} <= events


def test_every_event_follows_on_some_effect() -> None:
    told = {event for row in TRANSITIONS.values() for event in row}

    assert told == {event for events in ANSWERS.values() for event in events}

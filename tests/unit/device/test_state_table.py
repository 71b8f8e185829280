"""The table that a device follows, looked at as a table."""

from keyflock_client_sim.device.input_events import CallLost, InputEvent, Interrupted, Woke
from keyflock_client_sim.device.states import ALLOWED_EVENTS, TRANSITIONS, DeviceState


def test_every_state_has_a_row_and_every_row_a_way_out() -> None:
    assert set(TRANSITIONS) == set(DeviceState)
    for state, row in TRANSITIONS.items():
        assert any(target is not state for targets in row.values() for target in targets)


def test_every_state_can_be_reached_from_the_first() -> None:
    reached = {DeviceState.UNENROLLED}
    while grown := {t for s in reached for targets in TRANSITIONS[s].values() for t in targets} - reached:
        reached |= grown

    assert reached == set(DeviceState)


def test_every_state_leads_back_to_rest() -> None:
    leads = {DeviceState.RESTING}
    while (
        grown := {s for s in DeviceState if any(targets & leads for targets in TRANSITIONS[s].values())}
        - leads
    ):
        leads |= grown

    assert leads == set(DeviceState)


def test_a_report_that_was_made_is_never_given_back() -> None:
    for state in (DeviceState.OFFERING, DeviceState.UPLOADING):
        assert all(DeviceState.RETURNING not in targets for targets in TRANSITIONS[state].values())


def test_whatever_calls_survives_a_lost_call_and_an_interruption() -> None:
    calling = set(DeviceState) - {DeviceState.RESTING, DeviceState.TRAINING}

    for state in calling:
        events: set[type[InputEvent]] = set(TRANSITIONS[state])
        assert {Woke, CallLost, Interrupted} <= events


def test_every_event_follows_on_some_effect() -> None:
    told = {event for row in TRANSITIONS.values() for event in row}

    assert told == {event for events in ALLOWED_EVENTS.values() for event in events}

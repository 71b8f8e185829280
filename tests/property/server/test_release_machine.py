"""Any events in any order: a stage only widens, and what is not legal changes nothing."""

from hypothesis import given
from hypothesis import strategies as st

from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.releases.release_state import (
    CANDIDATE_PHASES,
    GateFailed,
    GateInconclusive,
    IllegalReleaseEvent,
    OperatorHeld,
    Promoted,
    ReleaseEvent,
    ReleasePhase,
    ReleaseRolledBack,
    Started,
    Widened,
    Withdrawn,
    advance_release,
    first_release,
)

VERSIONS = st.integers(0, 4).map(ModelVersion)
PERCENTS = st.integers(-1, 101)
EVENTS: st.SearchStrategy[ReleaseEvent] = st.one_of(
    st.builds(Started, VERSIONS, PERCENTS),
    st.builds(Widened, PERCENTS),
    st.builds(GateInconclusive),
    st.builds(GateFailed),
    st.builds(OperatorHeld),
    st.builds(Promoted, VERSIONS),
    st.builds(ReleaseRolledBack, VERSIONS),
    st.builds(Withdrawn, VERSIONS),
)


@given(st.lists(EVENTS, max_size=40))
def test_a_stage_only_widens_and_a_release_always_serves_something(events: list[ReleaseEvent]) -> None:
    state = first_release(ModelVersion(0))

    for event in events:
        before = state
        try:
            state = advance_release(state, event)
        except IllegalReleaseEvent:
            continue

        assert (state.candidate is not None) is (state.phase in CANDIDATE_PHASES)
        assert state.candidate != state.version
        if state.candidate is None:
            assert state.percent == 100
            assert state.served == {state.version}
            continue
        assert 0 <= state.percent < 100
        assert state.version == before.version
        if state.candidate == before.candidate:
            assert state.percent >= before.percent
        if before.phase is ReleasePhase.HELD:
            # Only an operator moves what is held.
            assert isinstance(event, Started | Widened | OperatorHeld)

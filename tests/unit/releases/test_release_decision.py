"""What the server does by itself with a release, by policy, verdict, time and who took the last step."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.protocol.operator.promotion_policy import Promotion, PromotionPolicy
from keyflock_server.releases.non_inferiority import GateVerdict
from keyflock_server.releases.release_decision import Situation, next_event
from keyflock_server.releases.release_state import (
    GateFailed,
    GateInconclusive,
    Promoted,
    ReleaseEvent,
    ReleasePhase,
    ReleaseRolledBack,
    ReleaseState,
    Started,
    Widened,
)

V = ModelVersion
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
DAY = timedelta(days=1)
GATE = PromotionPolicy(promotion=Promotion.GATE)


def idle(phase: ReleasePhase = ReleasePhase.IDLE, newest: int = 4, **but: Any) -> Situation:  # noqa: ANN401
    state = ReleaseState(phase=phase, version=V(3))
    known: dict[str, Any] = {"newest_tried": V(3), "is_operators": False, "stepped_at": NOON, **but}
    return Situation(state=state, newest=V(newest), **known)


def staged(
    percent: int,
    verdict: GateVerdict,
    phase: ReleasePhase = ReleasePhase.STAGED,
    *,
    evaluated: datetime = NOON,
) -> Situation:
    return Situation(
        state=ReleaseState(phase=phase, version=V(3), candidate=V(5), percent=percent),
        newest=V(9),
        newest_tried=V(5),
        is_operators=False,
        stepped_at=NOON,
        stage_began_at=NOON,
        verdict=verdict,
        evaluated_at=evaluated,
    )


@pytest.mark.parametrize(
    ("promotion", "event"),
    [
        (Promotion.AUTOMATIC, Promoted(V(4))),
        (Promotion.GATE, Started(V(4), 0)),
        (Promotion.MANUAL, None),
    ],
)
def test_a_new_version_is_released_staged_or_left_to_an_operator(
    promotion: Promotion, event: ReleaseEvent | None
) -> None:
    assert next_event(idle(), PromotionPolicy(promotion=promotion), NOON) == event


@pytest.mark.parametrize("promotion", [Promotion.AUTOMATIC, Promotion.GATE])
def test_what_was_tried_is_not_tried_again_by_itself(promotion: Promotion) -> None:
    situation = idle(ReleasePhase.ROLLED_BACK, newest=4, newest_tried=V(4))

    assert next_event(situation, PromotionPolicy(promotion=promotion), NOON) is None


@pytest.mark.parametrize("promotion", list(Promotion))
def test_after_an_operators_roll_back_nothing_is_released_by_itself(promotion: Promotion) -> None:
    situation = idle(ReleasePhase.ROLLED_BACK, is_operators=True)

    assert next_event(situation, PromotionPolicy(promotion=promotion), NOON) is None


@pytest.mark.parametrize(
    ("percent", "event"),
    [(0, Widened(1)), (1, Widened(10)), (10, Widened(50)), (50, Promoted(V(5))), (7, Widened(10))],
)
def test_a_passing_candidate_widens_stage_by_stage(percent: int, event: ReleaseEvent) -> None:
    assert next_event(staged(percent, GateVerdict.PASS), GATE, NOON + DAY) == event


def test_a_stage_lasts_its_minimum_time_and_the_one_without_devices_none() -> None:
    assert next_event(staged(1, GateVerdict.PASS), GATE, NOON + DAY - timedelta(seconds=1)) is None
    assert next_event(staged(0, GateVerdict.PASS), GATE, NOON) == Widened(1)


@pytest.mark.parametrize("verdict", [GateVerdict.INCONCLUSIVE, GateVerdict.NO_DATA, GateVerdict.FAIL])
@pytest.mark.parametrize("percent", [0, 1, 50])
def test_nothing_widens_without_a_passing_gate_however_long_it_takes(
    verdict: GateVerdict, percent: int
) -> None:
    event = next_event(staged(percent, verdict), GATE, NOON + 400 * DAY)

    assert not isinstance(event, Widened | Promoted | Started)


def test_a_failing_candidate_is_rolled_back_or_held_as_the_policy_says() -> None:
    holds = msgspec.structs.replace(GATE, rolls_back_on_fail=False)

    assert next_event(staged(10, GateVerdict.FAIL), GATE, NOON) == ReleaseRolledBack(V(3))
    assert next_event(staged(10, GateVerdict.FAIL), holds, NOON) == GateFailed()


def test_a_candidate_that_an_operator_staged_by_hand_is_rolled_back_too_and_never_widened() -> None:
    by_hand = PromotionPolicy(promotion=Promotion.MANUAL)

    assert next_event(staged(10, GateVerdict.FAIL), by_hand, NOON) == ReleaseRolledBack(V(3))
    assert next_event(staged(10, GateVerdict.PASS), by_hand, NOON + 2 * DAY) is None


def test_an_open_verdict_holds_once_and_goes_on_when_enough_phones_have_evaluated() -> None:
    inconclusive = ReleasePhase.INCONCLUSIVE

    assert next_event(staged(10, GateVerdict.INCONCLUSIVE), GATE, NOON) == GateInconclusive()
    assert next_event(staged(10, GateVerdict.INCONCLUSIVE, inconclusive), GATE, NOON + 2 * DAY) is None
    assert next_event(staged(10, GateVerdict.PASS, inconclusive), GATE, NOON) == Widened(10)
    assert next_event(staged(10, GateVerdict.PASS, inconclusive), GATE, NOON + DAY) == Widened(50)


def test_no_data_moves_nothing() -> None:
    assert next_event(staged(10, GateVerdict.NO_DATA), GATE, NOON + 2 * DAY) is None


@pytest.mark.parametrize("verdict", list(GateVerdict))
def test_what_an_operator_holds_stays_held_whatever_the_gate_finds(verdict: GateVerdict) -> None:
    assert next_event(staged(10, verdict, ReleasePhase.HELD), GATE, NOON + 2 * DAY) is None


@pytest.mark.parametrize("verdict", list(GateVerdict))
def test_a_gate_in_dry_run_does_nothing(verdict: GateVerdict) -> None:
    dry = msgspec.structs.replace(GATE, is_dry_run=True)

    assert next_event(staged(10, verdict), dry, NOON + 2 * DAY) is None
    assert next_event(idle(), dry, NOON) is None


def test_a_verdict_that_an_operator_overruled_does_nothing_until_there_is_another_evaluation() -> None:
    before, later = NOON - timedelta(seconds=1), NOON + timedelta(seconds=1)

    assert next_event(staged(10, GateVerdict.FAIL, evaluated=before), GATE, NOON) is None
    assert next_event(staged(10, GateVerdict.FAIL, evaluated=later), GATE, later) == ReleaseRolledBack(V(3))

"""What the server does by itself with a population's release: one event, or none. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.protocol.operator.promotion_policy import EVERYBODY, Promotion, PromotionPolicy
from keyflock_server.releases.non_inferiority import GateVerdict
from keyflock_server.releases.policies import stage_after
from keyflock_server.releases.release_state import (
    CANDIDATE_PHASES,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """A population's release, and what has happened to it."""

    state: ReleaseState
    #: The newest version of the population.
    newest: ModelVersion
    #: The newest version that was ever a candidate or served to everybody.
    newest_tried: ModelVersion
    #: Whether the last step was an operator's, and not the server's own.
    is_operators: bool
    #: When the last step was taken.
    stepped_at: datetime
    #: When the candidate's stage began; None without a candidate.
    stage_began_at: datetime | None = None
    #: What the gate finds; None without a candidate.
    verdict: GateVerdict | None = None
    #: When the last evaluation of the candidate closed; None without one.
    evaluated_at: datetime | None = None


def next_event(situation: Situation, policy: PromotionPolicy, now: datetime) -> ReleaseEvent | None:
    """Return what is to happen to a release by its policy, or None.

    Guarantees:
        Without a passing gate no stage ever widens by itself; a gate in dry run does nothing. What an
        operator has held or taken back stays so until an operator decides otherwise. A verdict that an
        operator has overruled does nothing before there is another evaluation.
    """
    if situation.state.phase in CANDIDATE_PHASES:
        return _candidate_event(situation, policy, now)
    is_blocked = situation.state.phase is ReleasePhase.ROLLED_BACK and situation.is_operators
    if is_blocked or situation.newest <= situation.newest_tried:
        return None
    match policy.promotion:
        case Promotion.AUTOMATIC:
            return Promoted(situation.newest)
        case Promotion.GATE if not policy.is_dry_run:
            return Started(situation.newest, 0)
        case Promotion.GATE | Promotion.MANUAL:
            return None
        case _:
            assert_never(policy.promotion)


def _candidate_event(situation: Situation, policy: PromotionPolicy, now: datetime) -> ReleaseEvent | None:
    state, evaluated_at = situation.state, situation.evaluated_at
    if policy.is_dry_run or state.phase is ReleasePhase.HELD:
        return None
    is_new = evaluated_at is not None and evaluated_at >= situation.stepped_at
    match situation.verdict:
        case GateVerdict.FAIL if is_new:
            return ReleaseRolledBack(state.version) if policy.rolls_back_on_fail else GateFailed()
        case GateVerdict.INCONCLUSIVE if is_new and state.phase is ReleasePhase.STAGED:
            return GateInconclusive()
        case GateVerdict.PASS if policy.promotion is Promotion.GATE:
            return _passed_event(situation, policy, now)
        case _:
            return None


def _passed_event(situation: Situation, policy: PromotionPolicy, now: datetime) -> ReleaseEvent | None:
    state, began_at = situation.state, situation.stage_began_at
    is_served = state.percent > 0 and began_at is not None
    if is_served and now < (began_at or now) + timedelta(seconds=policy.min_stage_s):
        # Enough phones have evaluated it meanwhile: it goes on at its stage.
        return Widened(state.percent) if state.phase is ReleasePhase.INCONCLUSIVE else None
    percent = stage_after(policy, state.percent)
    if percent < EVERYBODY:
        return Widened(percent)
    return None if state.candidate is None else Promoted(state.candidate)

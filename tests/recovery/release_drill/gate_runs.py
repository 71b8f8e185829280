"""Releases of versions with a known true difference, decided by the gate's real code on resampled phones."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from tests.recovery.release_drill.resampled_phones import SimulatedUsers, evaluation_of

from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.protocol.operator.promotion_policy import Promotion, PromotionPolicy
from keyflock_server.releases.non_inferiority import (
    ClosedEvaluation,
    GateVerdict,
    alpha_of_look,
    judge_non_inferiority,
    users_for_power,
)
from keyflock_server.releases.policies import rule_of
from keyflock_server.releases.release_decision import Situation, next_event
from keyflock_server.releases.release_state import (
    ReleasePhase,
    ReleaseState,
    Started,
    Widened,
    advance_release,
    first_release,
)

_BEGAN_AT = datetime(2026, 11, 30, tzinfo=UTC)
_BETWEEN = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRun:
    """How the release of one candidate went."""

    #: The verdicts after each evaluation.
    verdicts: tuple[GateVerdict, ...]
    #: After which evaluation its stage first widened; None: it never did.
    widened_after: int | None
    #: Whether nothing widened while the verdict was open.
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GateShares:
    """What many runs have in common."""

    runs: int
    #: Shares of runs in which a version 0.5 points worse reached a keyboard, at whichever evaluation.
    worse_passed_share: float
    #: Shares of runs in which an equal version did, once ``phones_needed`` phones had evaluated it.
    equal_passed_share: float
    phones_needed: int
    #: Whether an open verdict held in all runs, and was seen at all.
    inconclusive_held: bool


def phones_needed(users: SimulatedUsers, policy: PromotionPolicy) -> int:
    """Return how many phones the first look needs for an equal version to pass in 97 % of all cases."""
    alpha = alpha_of_look(1, policy.confidence)
    return users_for_power(users.deviation, rule_of(policy).margin, alpha)


def run_gate(
    rng: np.random.Generator, users: SimulatedUsers, difference: float, phones: int, evaluations: int
) -> GateRun:
    """Release a candidate of this true difference, with so many phones in each evaluation."""
    policy = PromotionPolicy(promotion=Promotion.GATE, min_users=phones)
    candidate = ModelVersion(1)
    state = advance_release(first_release(ModelVersion(0)), Started(candidate, 0))
    seen: list[ClosedEvaluation] = []
    verdicts: list[GateVerdict] = []
    widened_after, held = None, True
    for number in range(1, evaluations + 1):
        now = _BEGAN_AT + number * _BETWEEN
        seen.append(evaluation_of(*users.draw(rng, phones, difference)))
        verdicts.append(judge_non_inferiority(seen, rule_of(policy)).verdict)
        event = next_event(_situation(state, verdicts[-1], now), policy, now)
        if event is not None:
            state = advance_release(state, event)
        if isinstance(event, Widened) and widened_after is None:
            widened_after = number
        held &= verdicts[-1] is not GateVerdict.INCONCLUSIVE or state.percent == 0
        if state.phase is not ReleasePhase.INCONCLUSIVE:
            break
    return GateRun(verdicts=tuple(verdicts), widened_after=widened_after, held=held)


def run_many(runs: int, users: SimulatedUsers, seed: int, evaluations: int = 4) -> GateShares:
    """Run the gate on worse and on equal candidates, each so many times."""
    rng = np.random.default_rng(seed)
    policy = PromotionPolicy(promotion=Promotion.GATE)
    margin, phones = rule_of(policy).margin, phones_needed(users, policy)
    worse = [run_gate(rng, users, -margin, phones, evaluations) for _ in range(runs)]
    equal = [run_gate(rng, users, 0.0, phones, 1) for _ in range(runs)]
    is_open = [GateVerdict.INCONCLUSIVE in run.verdicts for run in (*worse, *equal)]
    return GateShares(
        runs=runs,
        worse_passed_share=sum(run.widened_after is not None for run in worse) / runs,
        equal_passed_share=sum(run.widened_after == 1 for run in equal) / runs,
        phones_needed=phones,
        inconclusive_held=any(is_open) and all(run.held for run in (*worse, *equal)),
    )


def _situation(state: ReleaseState, verdict: GateVerdict, now: datetime) -> Situation:
    return Situation(
        state=state,
        newest=ModelVersion(1),
        newest_tried=ModelVersion(1),
        is_operators=False,
        stepped_at=_BEGAN_AT,
        stage_began_at=_BEGAN_AT,
        verdict=verdict,
        evaluated_at=now,
    )

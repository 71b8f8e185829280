"""What follows from a promotion policy, and how it is stored."""

from typing import Final

import msgspec

from keyflock_server.protocol.operator.promotion_policy import EVERYBODY, PromotionPolicy
from keyflock_server.releases.non_inferiority import NonInferiorityRule
from keyflock_server.releases.paired_sums import RECALL_AT_3

_POINTS: Final = 100.0


def policy_to_json(policy: PromotionPolicy) -> str:
    """Return the JSON object that is stored with the population."""
    return msgspec.json.encode(policy).decode()


def policy_from_json(stored: str | None) -> PromotionPolicy:
    """Return the policy that ``policy_to_json`` encoded; the default where none is stored."""
    return PromotionPolicy() if stored is None else msgspec.json.decode(stored, type=PromotionPolicy)


def rule_of(policy: PromotionPolicy) -> NonInferiorityRule:
    """Return what the gate tests."""
    return NonInferiorityRule(
        metric=RECALL_AT_3,
        margin=policy.margin_points / _POINTS,
        confidence=policy.confidence,
        min_users=policy.min_users,
    )


def stage_after(policy: PromotionPolicy, percent: int) -> int:
    """Return the next wider stage; everybody after the last one."""
    return next((stage for stage in policy.stages if stage > percent), EVERYBODY)

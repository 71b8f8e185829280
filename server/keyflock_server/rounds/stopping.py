"""Whether what phones have measured of a population's versions ends a task that trains. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from keyflock_models.evaluation.paired_scores import FALLING_METRICS
from keyflock_server.rounds.evaluating import StopWhen


class StopDecision(NamedTuple):
    """Whether a task ends, and what its operators are told."""

    ends: bool
    #: One sentence: why it ends, or how far it is from its end.
    reason: str


def stop_decision(policy: StopWhen, values: Sequence[float]) -> StopDecision:
    """Return whether a task ends by its ``[stop_when]``.

    Args:
        policy: The task's ``[stop_when]``.
        values: The metric in the evaluations since the task was created, oldest first.
    Edge cases:
        no evaluation -> it goes on
    """
    if not values:
        return StopDecision(ends=False, reason=f"No evaluation of {policy.metric} has closed yet.")
    sign = -1.0 if policy.metric in FALLING_METRICS else 1.0
    newest, reaches = values[-1], policy.reaches
    if reaches is not None and any(sign * one >= sign * reaches for one in values):
        reached = next(one for one in values if sign * one >= sign * reaches)
        return StopDecision(
            ends=True, reason=f"{policy.metric} has reached {reached:.4g} ({reaches:g} asked)."
        )
    best, waited = sign * values[0], 0
    for one in values[1:]:
        if sign * one > best + policy.min_delta:
            best, waited = sign * one, 0
        else:
            waited += 1
    patience = policy.no_improvement_for
    told = f"{policy.metric} is {newest:.4g}, the best was {sign * best:.4g}"
    if patience is not None and waited >= patience:
        return StopDecision(ends=True, reason=f"{told}, and {waited} evaluations have not improved on it.")
    limits = [f"it ends at {reaches:g}"] if reaches is not None else []
    if patience is not None:
        limits.append(f"{waited} of {patience} evaluations have not improved on it")
    return StopDecision(ends=False, reason=f"{told}; {', '.join(limits)}.")

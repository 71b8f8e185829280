"""Checks of whether a new version may be published without an operator. They are pure.

There are two kinds of checks. The step's norm needs no text: it is compared with the phones' mean delta and
with earlier steps of the task. The loss on the anchor text also detects a step of ordinary norm in a bad
direction; a population without such a text has only the norms.
"""

from collections.abc import Iterable, Sequence

from keyflock_server.releases.step_figures import StepFigures
from keyflock_server.rounds.checks_policy import ChecksPolicy


def publishing_problem(
    figures: StepFigures, history: Sequence[StepFigures], bounds: ChecksPolicy, *, is_clipped: bool = False
) -> str:
    """Return why a step's version needs an operator's decision; empty if it may be published.

    Args:
        figures: The step's figures.
        history: The figures of the task's last committed rounds whose versions are still served.
        bounds: The task's checks.
        is_clipped: Whether the round's deltas were clipped, so that their mean is bounded.
    Guarantees:
        Where deltas are clipped, a step in the same proportion to its mean delta as an earlier one does not
        count as growth: a few phones that made an earlier step short cannot hold an ordinary one.
        The text has only numbers that the server measured, and nothing that a phone sent.
    """
    return (
        unacceptable_problem(figures)
        or _length_problem(figures, history, bounds, is_clipped=is_clipped)
        or _anchor_problem(figures, bounds)
    )


def unacceptable_problem(figures: StepFigures) -> str:
    """Return why not even an operator may accept the version; empty if one may."""
    if figures.non_finite_weights:
        return (
            f"{figures.non_finite_weights} of the new version's weights are infinite or no number: "
            "it cannot be stored or served."
        )
    return "The new version's loss on the anchor text is not finite." if figures.non_finite_losses else ""


def _length_problem(
    figures: StepFigures, history: Sequence[StepFigures], bounds: ChecksPolicy, *, is_clipped: bool
) -> str:
    in_proportion = _amplification(history) if is_clipped else 0.0
    lengths = (
        ("step", figures.step_norm, "mean delta", "step_norm", "mean_delta_norm"),
        ("step's longest row", figures.step_row_norm, "mean delta's", "step_row_norm", "mean_delta_row_norm"),
    )
    for what, length, reference, own, others in lengths:
        if length is None:
            return f"The norm of the {what} is not finite."
        deltas = _largest(getattr(one, others) for one in (figures, *history))
        if bounds.max_step_ratio and length > bounds.max_step_ratio * deltas:
            return (
                f"The {what} has norm {length:.4g}, more than {bounds.max_step_ratio:g} times the longest "
                f"{reference} of this and earlier rounds ({deltas:.4g})."
            )
        steps = _largest(getattr(one, own) for one in history)
        usual = max(steps, in_proportion * (getattr(figures, others) or 0.0))
        if bounds.max_step_growth and steps and length > bounds.max_step_growth * usual:
            rounds = f"the last {len(history)} rounds"
            than = (
                f"the longest of {rounds}" if usual == steps else f"what {rounds} made of such a mean delta"
            )
            return (
                f"The {what} has norm {length:.4g}, more than {bounds.max_step_growth:g} times {than} "
                f"({usual:.4g})."
            )
    return ""


def _amplification(history: Sequence[StepFigures]) -> float:
    """Return the maximum ratio of a step's norm to its mean delta's."""
    return _largest(
        one.step_norm / one.mean_delta_norm for one in history if one.step_norm and one.mean_delta_norm
    )


def _anchor_problem(figures: StepFigures, bounds: ChecksPolicy) -> str:
    references = (
        (figures.anchor_loss_before, bounds.max_anchor_rise, "the version before"),
        (figures.anchor_loss_chosen, bounds.max_anchor_drift, "the version that was last chosen by a person"),
    )
    for reference, bound, whose in references:
        if figures.anchor_loss is None or reference is None or not bound:
            continue
        if figures.anchor_loss > reference + bound:
            return (
                f"The loss on the anchor text is {figures.anchor_loss:.4g} nats a word, more than {bound:g} "
                f"above that of {whose} ({reference:.4g})."
            )
    return ""


def _largest(figures: Iterable[float | None]) -> float:
    return max((one for one in figures if one is not None), default=0.0)

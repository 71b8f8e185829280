"""Whether a new version may become the newest by itself. Pure: what a round's row says decides, and no clock.

Two kinds of evidence. The step's length needs no text: it is compared with what phones themselves did (their
mean delta) and with what earlier steps of the task did. The loss on the anchor text sees also a step of
ordinary length in a bad direction; where a population has none, the lengths are all there is.
"""

from collections.abc import Iterable, Sequence

from keyflock_server.releases.step_figures import StepFigures
from keyflock_server.rounds.checks_policy import ChecksPolicy


def publishing_problem(
    figures: StepFigures, history: Sequence[StepFigures], bounds: ChecksPolicy, *, is_clipped: bool = False
) -> str:
    """Return why the version that a step made must not be published unasked; empty: it may be.

    Args:
        figures: Of the step.
        history: Of the task's last committed rounds, whose versions are still served.
        bounds: The task's.
        is_clipped: Whether the round's deltas were clipped, so that its mean is bounded whoever sent them.
    Guarantees:
        Where deltas are clipped, a step that is to its mean delta as an earlier one was to its own is no
        growth: a few phones that made an earlier step short cannot have an ordinary one held.
        The text holds numbers that the server measured, and nothing that anybody sent.
    """
    return (
        unacceptable_problem(figures)
        or _length_problem(figures, history, bounds, is_clipped=is_clipped)
        or _anchor_problem(figures, bounds)
    )


def unacceptable_problem(figures: StepFigures) -> str:
    """Return why not even an operator can want the version; empty: one may."""
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
    """Return how far the server went for each unit of a mean delta, at most."""
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

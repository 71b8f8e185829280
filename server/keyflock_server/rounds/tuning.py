"""Over-selection and deadlines that follow what the last rounds showed. Pure: rows in, numbers out.

A round ends when its goal is met, so of phones that had not reported by then nobody knows whether they would
have: they are censored. The share that ever reports, and how long it takes, therefore come from the
Kaplan-Meier curve over all assignments, not from dividing what was counted by what was given out, which would
find 23 % of drop-outs behind every over-selection of 30 %.

Every replica that reads the same rows finds the same numbers.

Source: Kaplan and Meier 1958, doi:10.1080/01621459.1958.10501452. Over-selection against drop-outs, and
deadlines after observed times: Bonawitz et al. 2019, sections 2.2 and 9.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import msgspec

from keyflock_server.rounds.task import RoundPolicy, TaskSpec

#: Rounds, and assignments in all, that are looked at.
ROUNDS: Final = 8
ASSIGNMENTS: Final = 4_000
#: With fewer assignments nothing is concluded.
_ENOUGH: Final = 30
#: Standard deviations between the expected number of reports and the goal: 95 % of rounds fill.
_SURENESS: Final = 1.645
#: The deadline is so many times what nineteen of twenty reports needed.
_PATIENCE: Final = 1.5
_P95: Final = 0.95


class Fate(Enum):
    """What became of an assignment, as far as its round saw."""

    REPORTED = auto()
    #: Given back: no report would ever have come.
    FAILED = auto()
    #: Nothing was heard before the round ended.
    CENSORED = auto()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One assignment of a past round."""

    fate: Fate
    #: From the round's opening to the assignment.
    assigned_after_s: float
    #: From the assignment to its report, or to the end of what is known of it.
    after_s: float


@dataclass(frozen=True, slots=True)
class RoundHistory:
    """The last rounds of a task, newest first."""

    #: From opening to end, of rounds that came to a result.
    durations_s: tuple[float, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """What phones do with an assignment."""

    #: Share that reports, if it is waited for.
    report_ratio: float
    #: By then nineteen of twenty reports are in, from the assignment.
    report_p95_s: float
    #: By then nineteen of twenty assignments are given out, from the opening.
    assigned_p95_s: float


def completion(outcomes: Sequence[Outcome]) -> Completion | None:
    """The share of assignments that end in a report, and how long that takes.

    Edge cases:
        fewer than 30 assignments, or no report at all -> None: nothing can be concluded
    """
    reported = sorted(one.after_s for one in outcomes if one.fate is Fate.REPORTED)
    if len(outcomes) < _ENOUGH or not reported:
        return None
    curve = _curve(outcomes)
    ratio = curve[-1][1]
    p95_s = next(after_s for after_s, share in curve if share >= _P95 * ratio)
    return Completion(ratio, p95_s, _quantile([one.assigned_after_s for one in outcomes], _P95))


def tuned(spec: TaskSpec, history: RoundHistory) -> TaskSpec:
    """The task with the over-selection and the deadline that its next round should have.

    Guarantees:
        What ``[round.auto]`` does not name is unchanged; what it names is within its limits.
    """
    limits = spec.round.auto
    seen = completion(history.outcomes) if limits is not None else None
    if limits is None or seen is None:
        return spec
    changes: dict[str, float] = {}
    if limits.over_selection is not None:
        over_selection = slots_for(spec.round.goal, seen.report_ratio) / spec.round.goal - 1.0
        changes["over_selection"] = _clipped(over_selection, limits.over_selection)
    if limits.deadline_s is not None:
        deadline_s = seen.assigned_p95_s + _PATIENCE * seen.report_p95_s
        changes["deadline_s"] = _clipped(deadline_s, limits.deadline_s)
    return msgspec.structs.replace(spec, round=msgspec.structs.replace(spec.round, **changes))


def slots_for(goal: int, report_ratio: float) -> int:
    """The fewest assignments of which, 95 times in 100, at least ``goal`` are reported.

    n p - z sqrt(n p (1 - p)) >= goal, solved for sqrt(n).
    """
    ratio = min(max(report_ratio, 0.01), 1.0)
    spread = _SURENESS * math.sqrt(ratio * (1.0 - ratio))
    root = (spread + math.sqrt(spread * spread + 4.0 * ratio * goal)) / (2.0 * ratio)
    return math.ceil(round(root * root, 6))


def typical_duration_s(history: RoundHistory) -> float | None:
    """How long a round takes at least three times in four: phones that aim at its end come not too late."""
    return _quantile(history.durations_s, 0.25) if history.durations_s else None


def usual_cycle_s(policy: RoundPolicy, history: RoundHistory) -> float:
    """Seconds from one opening to the next, as far as is known."""
    known = typical_duration_s(history)
    return policy.deadline_s if known is None else min(known, policy.deadline_s)


def _curve(outcomes: Iterable[Outcome]) -> list[tuple[float, float]]:
    """(seconds, share reported by then) at every report. A phone that gave back is waited for in vain."""
    ordered = sorted(outcomes, key=lambda one: (one.after_s, one.fate is not Fate.REPORTED))
    at_risk, silent, curve = len(ordered), 1.0, []
    for one in ordered:
        if one.fate is Fate.REPORTED:
            silent *= 1.0 - 1.0 / at_risk
            curve.append((one.after_s, 1.0 - silent))
        if one.fate is not Fate.FAILED:
            at_risk -= 1
    return curve


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _clipped(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])

"""Over-selection and deadlines that follow what the last rounds showed. Pure: rows in, numbers out.

A round ends when its goal is met, so of phones that were silent by then nobody knows whether they would have
reported: they are censored, and always the slowest. Dividing what was counted by what was given out would
find 23 % of drop-outs behind every over-selection of 30 %, and ask for ever more. What is fitted instead is a
mixture: a share of phones reports, after a log-normal time, and the rest never does. How the reports thin
out before a round's end tells the late from the lost.

Every replica that reads the same rows finds the same numbers.

Source: Boag 1949, doi:10.1111/j.2517-6161.1949.tb00020.x (log-normal cure model), fitted by expectation
maximisation. Over-selection against drop-outs, and deadlines after observed times: Bonawitz et al. 2019,
sections 2.2 and 9.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
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
#: No assignment runs out sooner, however fast the phones were that reported: those that are as fast as can be
#: must not shut out all others.
_SHORTEST_LIMIT_S: Final = 60.0
#: Where nobody ever reports, every other round gives its slots to so many phones in turn.
_TURNS_WITHOUT_REPORTS: Final = 10
#: Standard deviations from the median of a normal to its 95th percentile.
_TO_P95: Final = 1.645
_PASSES: Final = 300
#: Of the logarithm of seconds: phones that all take the same time fit, too.
_LEAST_DEVIATION: Final = 0.05
#: Censored times are gathered in steps of a fiftieth of their logarithm.
_STEPS: Final = 50.0


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
    logs = [math.log(max(one.after_s, 1e-3)) for one in outcomes if one.fate is Fate.REPORTED]
    if len(outcomes) < _ENOUGH or not logs:
        return None
    censored = Counter(
        round(_STEPS * math.log(max(one.after_s, 1e-3))) for one in outcomes if one.fate is Fate.CENSORED
    )
    ratio, mean, deviation = _fitted(logs, censored, len(outcomes))
    assigned_p95_s = _quantile([one.assigned_after_s for one in outcomes], _P95)
    return Completion(ratio, math.exp(mean + _TO_P95 * deviation), assigned_p95_s)


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


def assignment_limit_s(policy: RoundPolicy, history: RoundHistory, sequence: int) -> float | None:
    """How long one assignment of a synchronous round may take; None: as long as the round.

    What nineteen of twenty reports needed, and half as much again; of what the fit expects, no more than the
    slowest report has needed. Where the last rounds had no report at all, whoever held their slots may do
    nothing else: every other round gives a tenth of its time to each assignment, so that its slots come to
    others. The rounds between leave all of it to phones that are slow.

    Args:
        policy: The round's.
        history: What became of the last rounds' assignments.
        sequence: The round's number.
    Edge cases:
        fewer than 30 assignments, some of them reported -> None: too few to go by
    """
    seen = completion(history.outcomes)
    reported_s = [one.after_s for one in history.outcomes if one.fate is Fate.REPORTED]
    if seen is not None:
        return max(_PATIENCE * min(seen.report_p95_s, max(reported_s)), _SHORTEST_LIMIT_S)
    if not reported_s and len(history.outcomes) >= policy.slots and sequence % 2 == 0:
        return max(policy.deadline_s / _TURNS_WITHOUT_REPORTS, _SHORTEST_LIMIT_S)
    return None


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


def _fitted(logs: Sequence[float], censored: Mapping[int, int], total: int) -> tuple[float, float, float]:
    """(share that reports, mean and deviation of the logarithm of its seconds), of greatest likelihood."""
    count, first, second = len(logs), math.fsum(logs), math.fsum(one * one for one in logs)
    ratio, mean = count / total, first / count
    deviation = max(math.sqrt(max(second / count - mean * mean, 0.0)), _LEAST_DEVIATION)
    for _ in range(_PASSES):
        late = late_first = late_second = 0.0
        for step, number in censored.items():
            # Of phones silent until then: how many will report, and what is to be expected of their times.
            z = (step / _STEPS - mean) / deviation
            beyond = max(0.5 * math.erfc(z / math.sqrt(2.0)), 1e-300)
            will_report = number * ratio * beyond / (ratio * beyond + 1.0 - ratio + 1e-12)
            hazard = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi) / beyond
            expected = mean + deviation * hazard
            variance = deviation * deviation * max(1.0 + z * hazard - hazard * hazard, 0.0)
            late += will_report
            late_first += will_report * expected
            late_second += will_report * (expected * expected + variance)
        ratio = (count + late) / total
        mean = (first + late_first) / (count + late)
        spread = (second + late_second) / (count + late) - mean * mean
        deviation = max(math.sqrt(max(spread, 0.0)), _LEAST_DEVIATION)
    return ratio, mean, deviation


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _clipped(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])

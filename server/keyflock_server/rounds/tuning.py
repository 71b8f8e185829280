"""Over-selection and deadlines that follow the last rounds. Pure: rows in, numbers out.

A round ends when its goal is met, so it is unknown whether the phones that were silent by then would have
reported: they are censored, and always the slowest. Dividing counted reports by assignments would estimate 23
% of drop-outs for every over-selection of 30 %, and ask for ever more. Instead a mixture is fitted: a share
of phones reports, after a log-normal time, and the rest never does. How the reports thin out before a round's
end separates the late phones from the lost ones.

Every replica that reads the same rows computes the same numbers.

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

#: Maximum number of rounds, and of all their assignments, that the estimates use.
MAX_ROUNDS: Final = 8
MAX_ASSIGNMENTS: Final = 4_000
#: Minimum number of assignments for an estimate.
_ENOUGH: Final = 30
#: Standard deviations between the expected number of reports and the goal: 95 % of rounds fill.
_CONFIDENCE_Z: Final = 1.645
#: Ratio of the deadline to the time that nineteen of twenty reports needed.
_DEADLINE_FACTOR: Final = 1.5
_P95: Final = 0.95
#: Minimum duration of an assignment, however fast the reporting phones were: the fastest phones must not shut
#: out all others.
_SHORTEST_LIMIT_S: Final = 60.0
#: Where no phone reports, every other round gives its slots to this many phones in turn.
_TURNS_WITHOUT_REPORTS: Final = 10
#: Standard deviations from the median of a normal to its 95th percentile.
_TO_P95: Final = 1.645
_EM_ITERATIONS: Final = 300
#: Minimum deviation of the logarithm of seconds, for phones that all take the same time.
_MIN_DEVIATION: Final = 0.05
#: Censored times are binned in steps of a fiftieth of their logarithm.
_STEPS: Final = 50.0


class OutcomeKind(Enum):
    """The kind of outcome of an assignment, as far as its round knew."""

    REPORTED = auto()
    #: The assignment failed: no report would have come.
    FAILED = auto()
    #: The device had not answered when the round ended.
    CENSORED = auto()


@dataclass(frozen=True, slots=True)
class AssignmentOutcome:
    """The outcome of one assignment of a past round."""

    kind: OutcomeKind
    #: Time from the round's opening to the assignment.
    assigned_after_s: float
    #: Time from the assignment to its report, or to the end of its observation.
    after_s: float


@dataclass(frozen=True, slots=True)
class RoundHistory:
    """The last rounds of a task, newest first."""

    #: Times from opening to end of rounds with a result.
    durations_s: tuple[float, ...] = ()
    outcomes: tuple[AssignmentOutcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """The estimated completion of assignments."""

    #: Share of assignments that end in a report, without a time limit.
    report_ratio: float
    #: Time from the assignment until nineteen of twenty reports have arrived.
    report_p95_s: float
    #: Time from the opening until nineteen of twenty assignments are made.
    assigned_p95_s: float


def completion(outcomes: Sequence[AssignmentOutcome]) -> Completion | None:
    """Estimate the share of assignments that end in a report, and how long that takes.

    Edge cases:
        fewer than 30 assignments, or no report at all -> None: there is no estimate
    """
    logs = [math.log(max(one.after_s, 1e-3)) for one in outcomes if one.kind is OutcomeKind.REPORTED]
    if len(outcomes) < _ENOUGH or not logs:
        return None
    censored = Counter(
        round(_STEPS * math.log(max(one.after_s, 1e-3)))
        for one in outcomes
        if one.kind is OutcomeKind.CENSORED
    )
    ratio, mean, deviation = _fitted(logs, censored, len(outcomes))
    assigned_p95_s = _quantile([one.assigned_after_s for one in outcomes], _P95)
    return Completion(ratio, math.exp(mean + _TO_P95 * deviation), assigned_p95_s)


def tuned(spec: TaskSpec, history: RoundHistory) -> TaskSpec:
    """Return the task with the over-selection and the deadline of its next round.

    Guarantees:
        Fields that ``[round.auto]`` does not name are unchanged; the others are within its limits.
    """
    limits = spec.round.auto
    observed = completion(history.outcomes) if limits is not None else None
    if limits is None or observed is None:
        return spec
    changes: dict[str, float] = {}
    if limits.over_selection is not None:
        over_selection = slots_for(spec.round.goal, observed.report_ratio) / spec.round.goal - 1.0
        changes["over_selection"] = _clipped(over_selection, limits.over_selection)
    if limits.deadline_s is not None:
        deadline_s = observed.assigned_p95_s + _DEADLINE_FACTOR * observed.report_p95_s
        changes["deadline_s"] = _clipped(deadline_s, limits.deadline_s)
    return msgspec.structs.replace(spec, round=msgspec.structs.replace(spec.round, **changes))


def assignment_limit_s(policy: RoundPolicy, history: RoundHistory, sequence: int) -> float | None:
    """Return how long one assignment of a synchronous round may take; None means as long as the round.

    It is the time that nineteen of twenty reports needed, and half as much again; the fit's estimate counts
    up to the time of the slowest report. Where the last rounds had no report at all, the devices in their
    slots may never report: every other round gives a tenth of its time to each assignment, so that others get
    its slots. The rounds between leave all the time to slow phones.

    Args:
        policy: The round's policy.
        history: The outcomes of the last rounds' assignments.
        sequence: The round's number.
    Edge cases:
        fewer than 30 assignments, some of them reported -> None: too few for an estimate
    """
    observed = completion(history.outcomes)
    reported_s = [one.after_s for one in history.outcomes if one.kind is OutcomeKind.REPORTED]
    if observed is not None:
        return max(_DEADLINE_FACTOR * min(observed.report_p95_s, max(reported_s)), _SHORTEST_LIMIT_S)
    if not reported_s and len(history.outcomes) >= policy.slots and sequence % 2 == 0:
        return max(policy.deadline_s / _TURNS_WITHOUT_REPORTS, _SHORTEST_LIMIT_S)
    return None


def slots_for(goal: int, report_ratio: float) -> int:
    """Return the minimum number of assignments of which, 95 times in 100, at least ``goal`` are reported.

    n p - z sqrt(n p (1 - p)) >= goal, solved for sqrt(n).
    """
    ratio = min(max(report_ratio, 0.01), 1.0)
    spread = _CONFIDENCE_Z * math.sqrt(ratio * (1.0 - ratio))
    root = (spread + math.sqrt(spread * spread + 4.0 * ratio * goal)) / (2.0 * ratio)
    return math.ceil(round(root * root, 6))


def typical_duration_s(history: RoundHistory) -> float | None:
    """Return the first quartile of round durations, so that phones sent to a round's end come in time."""
    return _quantile(history.durations_s, 0.25) if history.durations_s else None


def usual_cycle_s(policy: RoundPolicy, history: RoundHistory) -> float:
    """Return the expected seconds from one opening to the next."""
    known = typical_duration_s(history)
    return policy.deadline_s if known is None else min(known, policy.deadline_s)


def _fitted(logs: Sequence[float], censored: Mapping[int, int], total: int) -> tuple[float, float, float]:
    """Return the maximum-likelihood share that reports, and the mean and deviation of its log seconds."""
    count, first, second = len(logs), math.fsum(logs), math.fsum(one * one for one in logs)
    ratio, mean = count / total, first / count
    deviation = max(math.sqrt(max(second / count - mean * mean, 0.0)), _MIN_DEVIATION)
    for _ in range(_EM_ITERATIONS):
        late = late_first = late_second = 0.0
        for step, number in censored.items():
            # The expected number of silent phones that will report, and the moments of their times.
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
        deviation = max(math.sqrt(max(spread, 0.0)), _MIN_DEVIATION)
    return ratio, mean, deviation


def _quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _clipped(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])

"""How a task's rounds would fill, by the formulas that pacing uses for tasks that run. Pure."""

import math
from dataclasses import dataclass

from keyflock_server.rounds.pacing import expected_arrivals, is_large, meeting_period_s, meets
from keyflock_server.rounds.task import TaskSpec


@dataclass(frozen=True, slots=True)
class Fill:
    """How one round would fill."""

    #: Whether the population is so small that its phones meet.
    is_meeting: bool
    #: Expected time until all slots are taken; None if there are too few devices.
    slots_taken_s: float | None
    #: One or two sentences for operators.
    meaning: str


def fill_forecast(spec: TaskSpec, eligible_devices: int, seen_devices: int) -> Fill:
    """Return how a round would fill with so many devices.

    Args:
        spec: The task.
        eligible_devices: Devices that fit and were seen within a day, as pacing counts them.
        seen_devices: All devices of the population that were seen within a day.
    Edge cases:
        fewer devices than slots -> the time is None; the meaning says whether a round can have a result
    """
    policy, pacing = spec.round, spec.pacing
    is_meeting = meets(policy, pacing, eligible_devices, seen_devices)
    taken_s = _slots_taken_s(spec, eligible_devices)
    if eligible_devices < policy.minimum_reports:
        meaning = (
            f"{eligible_devices} devices fit and were active within a day; a round needs "
            f"{policy.minimum_reports} reports (round.minimum), so none would have a result."
        )
    elif taken_s is None:
        meaning = (
            f"{eligible_devices} devices are fewer than the {policy.slots} slots: some stay free, and a "
            f"round closes at the goal of {policy.goal}, or late with {policy.minimum_reports} reports."
        )
    elif policy.is_async:
        meaning = (
            f"{policy.slots} devices train at once; every {policy.goal} reports make a version. An "
            f"assignment expires {policy.deadline_s:g} s after it was made."
        )
    elif taken_s > policy.deadline_s:
        meaning = (
            f"The slots are taken after about {taken_s:.0f} s, and the round ends after "
            f"{policy.deadline_s:g} s (round.deadline_s), with what it has, if that is "
            f"{policy.minimum_reports} reports. "
            "Raise the deadline, or lower the goal."
        )
    else:
        on_miss = "carried into the next round" if policy.on_miss == "carry" else "dropped"
        meaning = (
            f"The slots are taken after about {taken_s:.0f} s; phones have until {policy.deadline_s:g} s "
            f"after the opening. A round closes at {policy.goal} reports, or then with "
            f"{policy.minimum_reports}; fewer are {on_miss}."
        )
    return Fill(is_meeting, taken_s, meaning)


def _slots_taken_s(spec: TaskSpec, eligible_devices: int) -> float | None:
    policy, pacing = spec.round, spec.pacing
    if eligible_devices < policy.slots:
        return None
    arrivals = expected_arrivals(policy, pacing, eligible_devices)
    if is_large(policy, eligible_devices):
        return policy.slots / arrivals * policy.selection_window_s
    return meeting_period_s(pacing) * math.ceil(policy.slots / arrivals)

"""Refusals of check-ins, made of windows that are computed elsewhere."""

from collections.abc import Sequence
from typing import Final

from keyflock_server.coordinator.task_state import TaskState
from keyflock_server.protocol.messages import Refusal, RefusalReason, ReturnWindow
from keyflock_server.rounds.eligibility import Ineligible
from keyflock_server.rounds.pacing import no_task_window
from keyflock_server.rounds.task import TaskStatus

_NO_TASK: Final = Refusal(reason=RefusalReason.NO_ACTIVE_TASK, return_window=no_task_window())


def round_full(window: ReturnWindow, detail: str = "") -> Refusal:
    """Return the refusal of a phone that the open round has no slot for."""
    return Refusal(reason=RefusalReason.ROUND_FULL, return_window=window, detail=detail)


def not_eligible(broken: Ineligible, window: ReturnWindow) -> Refusal:
    """Return the refusal of a phone that breaks a rule, and waits for it if that is longer."""
    if broken.wait_s > window.min_s:
        wait_s = broken.wait_s
        window = ReturnWindow(min_s=wait_s, max_s=max(window.max_s, wait_s))
    return Refusal(reason=broken.reason, return_window=window, detail=broken.detail)


def refusal_priority(refusal: Refusal) -> tuple[bool, float]:
    """Return the sort key of a refusal: the phone gets one, of a task that may still want it, the soonest."""
    return refusal.reason is RefusalReason.NOT_ELIGIBLE, refusal.return_window.min_s


def no_task(tasks: Sequence[TaskState]) -> Refusal:
    """Return the refusal of a phone whose population has no active task."""
    lows = [state.spec.pacing.min_s for state in tasks if state.status is TaskStatus.PAUSED]
    if not lows:
        return _NO_TASK
    window = ReturnWindow(min_s=max(lows), max_s=2 * max(lows))
    return Refusal(reason=RefusalReason.PAUSED, return_window=window)


def overloaded(tasks: Sequence[TaskState], load: float) -> Refusal:
    """Return a refusal from memory: an overloaded server queries nothing for a phone that can come later."""
    low = max((state.spec.pacing.min_s for state in tasks), default=60.0) * (1.0 + load)
    high = max((state.spread_s for state in tasks), default=0.0)
    window = ReturnWindow(min_s=low, max_s=max(2.0 * low, high))
    return Refusal(reason=RefusalReason.OVERLOADED, return_window=window)

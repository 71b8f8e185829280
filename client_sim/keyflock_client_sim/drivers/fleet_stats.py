"""The statistics of a fleet from its phones' side, counted as events happen."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from keyflock_client_sim.device.device_events import (
    AssignmentEnded,
    AssignmentReceived,
    CallFailed,
    CheckInRefused,
    DeviceEnrolled,
    DeviceEvent,
    ReportAcked,
)
from keyflock_client_sim.device.states import DeviceState
from keyflock_client_sim.fleet.phone import Phone
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.messages import RefusalReason


@dataclass(frozen=True, slots=True)
class FleetEvent:
    """An event of one phone's device."""

    phone: str
    #: Seconds since the fleet began.
    at_s: float
    event: DeviceEvent


#: A return window from so long on means that the tasks are over: between two rounds it is shorter.
NO_TASKS_RETURN_S: Final = 3_600.0

#: A listener gets every event as it happens; it must be quick and must not raise.
EventListener = Callable[[FleetEvent], None]


@dataclass(slots=True)
class FleetStats:
    """Counts over a whole fleet."""

    phones: Sequence[Phone]
    #: Seconds since the fleet began.
    now_s: float = 0.0
    enrolled: int = 0
    assigned: int = 0
    #: Reports that the server has acknowledged.
    reports_acked: int = 0
    #: Reports acknowledged at a repeated attempt: the first answer was lost.
    duplicates: int = 0
    #: Delta bytes of acknowledged reports.
    delta_bytes: int = 0
    #: Acknowledged reports by round.
    acked_by_round: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    #: Check-ins rejected because no task runs, and not only for the moment between two rounds.
    no_more_tasks: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    #: ``<call>: <what was wrong>``.
    call_errors: Counter[str] = field(default_factory=Counter)
    #: How often each session shape came to its end (Bonawitz et al. 2019, Table 1).
    session_shapes: Counter[str] = field(default_factory=Counter)
    #: The oldest version that any phone was given; None before the first assignment.
    first_version: int | None = None
    #: The newest version that any phone was given.
    last_version: int | None = None

    #: The rounds in which phones were given work, by task.
    rounds: dict[TaskName, set[RoundId]] = field(default_factory=dict)

    @property
    def rounds_closed(self) -> int:
        """Return the number of rounds that a later one has followed, as far as assignments show."""
        return sum(len(rounds) - 1 for rounds in self.rounds.values())

    @property
    def versions_made(self) -> int:
        """Return how many versions the model has moved on, as far as assignments show."""
        return 0 if self.last_version is None else self.last_version - (self.first_version or 0)

    @property
    def bytes_up(self) -> int:
        """Return the bytes of all calls' bodies, those that got lost among them."""
        return sum(phone.device.counters.bytes_up for phone in self.phones)

    @property
    def bytes_down(self) -> int:
        """Return the bytes of all answers that arrived."""
        return sum(phone.device.counters.bytes_down for phone in self.phones)

    @property
    def check_ins(self) -> int:
        """Check-ins that were answered, with work or without."""
        return sum(phone.device.counters.check_ins for phone in self.phones)

    def served_versions(self) -> Counter[int]:
        """Return how many keyboards serve each version now."""
        keyboards = (phone.keyboard for phone in self.phones)
        return Counter(one.served.version for one in keyboards if one is not None and one.served is not None)

    def states(self) -> Counter[DeviceState]:
        """Return how many phones are in each state."""
        return Counter(phone.device.state for phone in self.phones)

    def record(self, event: FleetEvent) -> None:
        """Count the event."""
        self.now_s = max(self.now_s, event.at_s)
        match event.event:
            case DeviceEnrolled(is_refresh=is_refresh):
                self.enrolled += not is_refresh
            case CheckInRefused(reason, window):
                self.rejected[reason.value] += 1
                self.no_more_tasks += (
                    reason is RefusalReason.NO_ACTIVE_TASK and window.min_s >= NO_TASKS_RETURN_S
                )
            case AssignmentReceived(task=task, round=round_id, model_version=version):
                self.assigned += 1
                self.rounds.setdefault(task, set()).add(round_id)
                self.first_version = (
                    version if self.first_version is None else min(self.first_version, version)
                )
                self.last_version = version if self.last_version is None else max(self.last_version, version)
            case ReportAcked() as acked:
                self.reports_acked += 1
                self.duplicates += acked.is_duplicate
                self.delta_bytes += acked.delta_bytes
                self.acked_by_round[acked.round] += 1
                self.session_shapes[acked.session_shape] += 1
            case AssignmentEnded() as ended:
                self.endings[ended.reason.value] += 1
                self.session_shapes[ended.session_shape] += 1
            case CallFailed(call, error):
                self.call_errors[f"{call}: {error}"] += 1
            case _:
                assert_never(event.event)

    def summary(self) -> dict[str, object]:
        """Return all counts as plain values, for one JSON line."""
        return {
            "seconds": round(self.now_s, 3),
            "devices": len(self.phones),
            "enrolled": self.enrolled,
            "check_ins": self.check_ins,
            "assigned": self.assigned,
            "reports_acked": self.reports_acked,
            "duplicates": self.duplicates,
            "rounds_closed": self.rounds_closed,
            "versions_made": self.versions_made,
            "acked_by_round": dict(self.acked_by_round),
            "bytes_per_report": self.delta_bytes / self.reports_acked if self.reports_acked else None,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "turned_away": dict(self.rejected),
            "endings": dict(self.endings),
            "troubles": dict(self.call_errors),
            "served_versions": dict(sorted(self.served_versions().items())),
            "session_shapes": dict(self.session_shapes.most_common()),
        }

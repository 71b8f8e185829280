"""What is known of a fleet from its phones' side: counted as it happens, drawn by whoever watches."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from keyflock_client_sim.device.notices import Acked, Assigned, Ended, Enrolled, Notice, Troubled, TurnedAway
from keyflock_client_sim.device.states import State
from keyflock_client_sim.fleet.phone import Phone
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.messages import RefusalReason


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that a phone has been through."""

    phone: str
    #: Seconds since the fleet began.
    at_s: float
    notice: Notice


#: A server between two rounds has phones back sooner, one whose tasks are over does not.
AN_HOUR_S: Final = 3_600.0

#: Is told of everything, as it happens; must be quick and must not raise.
Watch = Callable[[Happening], None]


@dataclass(slots=True)
class Books:
    """A fleet in numbers."""

    phones: Sequence[Phone]
    #: Seconds since the fleet began.
    now_s: float = 0.0
    enrolled: int = 0
    assigned: int = 0
    #: Reports that the server has acknowledged.
    reports_acked: int = 0
    #: Acknowledged at a repeated sending: the first answer was lost.
    duplicates: int = 0
    #: Delta bytes of acknowledged reports.
    delta_bytes: int = 0
    #: Acknowledged reports by round.
    acked_by_round: Counter[str] = field(default_factory=Counter)
    turned_away: Counter[str] = field(default_factory=Counter)
    #: Turned away because no task runs, and not only for the moment between two rounds.
    sent_home: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    #: ``<call>: <what was wrong>``.
    troubles: Counter[str] = field(default_factory=Counter)
    #: How often each session shape came to its end (Bonawitz et al. 2019, Table 1).
    session_shapes: Counter[str] = field(default_factory=Counter)
    #: Of the first assignment; None before.
    first_version: int | None = None
    #: The newest that any phone was given.
    last_version: int | None = None

    #: In which phones were given work, by task.
    rounds: dict[TaskName, set[RoundId]] = field(default_factory=dict)

    @property
    def rounds_closed(self) -> int:
        """Rounds that another one of their task has followed, as far as assignments show."""
        return sum(len(seen) - 1 for seen in self.rounds.values())

    @property
    def versions_made(self) -> int:
        """How many versions the model has moved on, as far as assignments show."""
        return 0 if self.last_version is None else self.last_version - (self.first_version or 0)

    @property
    def bytes_up(self) -> int:
        """Bodies of all calls, also those that got lost."""
        return sum(phone.device.tally.bytes_up for phone in self.phones)

    @property
    def bytes_down(self) -> int:
        """Bodies of all answers that arrived."""
        return sum(phone.device.tally.bytes_down for phone in self.phones)

    @property
    def check_ins(self) -> int:
        """Check-ins that were answered, with work or without."""
        return sum(phone.device.tally.check_ins for phone in self.phones)

    def states(self) -> Counter[State]:
        """How many phones are where."""
        return Counter(phone.device.state for phone in self.phones)

    def enter(self, happening: Happening) -> None:
        """Counts what happened."""
        self.now_s = max(self.now_s, happening.at_s)
        match happening.notice:
            case Enrolled(is_refresh=is_refresh):
                self.enrolled += not is_refresh
            case TurnedAway(reason, window):
                self.turned_away[reason.value] += 1
                self.sent_home += reason is RefusalReason.NO_ACTIVE_TASK and window.min_s >= AN_HOUR_S
            case Assigned(task=task, round=round_id, model_version=version):
                self.assigned += 1
                self.rounds.setdefault(task, set()).add(round_id)
                self.first_version = (
                    version if self.first_version is None else min(self.first_version, version)
                )
                self.last_version = version if self.last_version is None else max(self.last_version, version)
            case Acked() as acked:
                self.reports_acked += 1
                self.duplicates += acked.is_duplicate
                self.delta_bytes += acked.delta_bytes
                self.acked_by_round[acked.round] += 1
                self.session_shapes[acked.session_shape] += 1
            case Ended() as ended:
                self.endings[ended.ending.value] += 1
                self.session_shapes[ended.session_shape] += 1
            case Troubled(call, trouble):
                self.troubles[f"{call}: {trouble}"] += 1
            case _:
                assert_never(happening.notice)

    def summary(self) -> dict[str, object]:
        """All of it as plain values, for one JSON line."""
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
            "turned_away": dict(self.turned_away),
            "endings": dict(self.endings),
            "troubles": dict(self.troubles),
            "session_shapes": dict(self.session_shapes.most_common()),
        }

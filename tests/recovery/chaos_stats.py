"""Counts of a chaos run: the faults, and where rounds stood when they hit."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.recovery.database_snapshot import DatabaseSnapshot

from keyflock_server.rounds.round import Phase

#: The phase that is shown for a task whose next round is not open yet.
BETWEEN_ROUNDS: Final = "between rounds"
#: The phases of a round after its last report and before its end.
CLOSING_PHASES: Final = frozenset({Phase.CLOSING, Phase.MERGED, Phase.STEPPED, Phase.PUBLISHED})


@dataclass
class ChaosStats:
    """Counts of one chaos run."""

    #: Number of processes that were killed with SIGKILL.
    kills: int = 0
    #: Number of moments at which processes were killed; at some, all replicas were.
    faults: int = 0
    #: Number of killed processes by what they were.
    victims: Counter[str] = field(default_factory=Counter)
    #: Number of killed processes that were not ready yet.
    while_starting: int = 0
    #: Phases of the rounds right after a fault, one for each task.
    phases: Counter[str] = field(default_factory=Counter)
    #: Number of faults after which a round was between its last report and its end.
    while_closing: int = 0
    #: Number of processes that were killed in a flush: they left a partial aggregate that no row points to.
    while_flushing: int = 0
    #: How often a replica was suspended, and resumed more than a lease later.
    hangs: int = 0
    #: How often the leader was suspended and another replica took over.
    handed_over: int = 0
    #: Number of model versions.
    versions: int = 0
    #: Seconds from a process's start until it was ready.
    starts_s: list[float] = field(default_factory=list)
    #: How often a server's log says ``task stuck``; no kill should cause that.
    stuck: int = 0
    seconds: float = 0.0

    def record_snapshot(self, snapshot: DatabaseSnapshot, tasks: tuple[str, ...]) -> None:
        """Count where rounds stand right after a fault."""
        phases = [snapshot.phases.get(task, BETWEEN_ROUNDS) for task in tasks]
        self.faults += 1
        self.phases.update(str(phase) for phase in phases)
        self.while_closing += any(phase in CLOSING_PHASES for phase in phases)

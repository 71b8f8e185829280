"""What was done to the servers, and how they stood when it was: what makes the kills worth counting."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.recovery.glimpse import Glimpse

from keyflock_server.rounds.round import Phase

#: A task whose next round has not been opened.
BETWEEN: Final = "between rounds"
#: Where a round is after its last report and before its end.
CLOSING: Final = frozenset({Phase.CLOSING, Phase.MERGED, Phase.STEPPED, Phase.PUBLISHED})


@dataclass
class Tally:
    """Counts of one run."""

    #: Processes that got a SIGKILL.
    kills: int = 0
    #: Moments at which that happened; at some, all replicas are hit.
    blows: int = 0
    #: Processes by what they were.
    victims: Counter[str] = field(default_factory=Counter)
    #: Of the kills: processes that were not ready yet.
    while_starting: int = 0
    #: Where rounds stood right after a blow, one for each task.
    phases: Counter[str] = field(default_factory=Counter)
    #: Blows after which a round was found between its last report and its end.
    while_closing: int = 0
    #: Processes that died in a flush: a partial aggregate of theirs lay there that no row pointed to, or not
    #: any more.
    while_flushing: int = 0
    #: SIGSTOP and, more than a lease later, SIGCONT.
    hangs: int = 0
    #: Of these, how often the leader slept and another took over.
    handed_over: int = 0
    #: Model versions made.
    versions: int = 0
    #: Times from a process's birth until it was ready.
    starts_s: list[float] = field(default_factory=list)
    #: Times that a server's log says a task is stuck: it is tried again, but should not be by a kill.
    stuck: int = 0
    seconds: float = 0.0

    def note(self, glimpse: Glimpse, tasks: tuple[str, ...]) -> None:
        """How things stand right after a blow."""
        standing = [glimpse.phases.get(task, BETWEEN) for task in tasks]
        self.blows += 1
        self.phases.update(str(phase) for phase in standing)
        self.while_closing += any(phase in CLOSING for phase in standing)

"""A run's findings: one line for programs, a table for people, a section for BENCHMARKS.md."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Final

from tests.benchmarks.page import Section, table
from tests.recovery.judge import Verdict, judge
from tests.recovery.leavers import COORDINATES, wrongly_counted
from tests.recovery.story import Ending

from keyflock_server.rounds.round import Phase

_TASKS: Final = """\
Five tasks: synchronous, carried over missed deadlines, held until an operator decides, two asynchronous ones
over one model. Every phone adds 1 at a coordinate of its own, so each model version says whose reports it was
made of (`tests/recovery/`)."""
_ENDS: Final = (Phase.CLOSED, Phase.CARRIED, Phase.DISCARDED)
STORES: Final = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


class Findings:
    """What is to be said of one run.

    Args:
        ending: The run.
        store: One of STORES.
    """

    def __init__(self, ending: Ending, store: str) -> None:
        self.ending = ending
        self.store = store
        self.verdict: Verdict = judge(ending.ledger.acked, ending.books.without(COORDINATES))
        #: What is wrong with reports of phones that left in the middle of a round.
        self.wrongly_counted = wrongly_counted(ending.lives, ending.books)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, nothing counted twice, and nothing of a phone that had left."""
        return self.verdict.lost == 0 and self.verdict.double == 0 and not self.wrongly_counted

    def line(self) -> str:
        """One JSON object."""
        said = self.verdict
        return json.dumps(
            {
                "kills": self.ending.tally.kills,
                "acked": said.acked,
                "counted": said.counted,
                "lost": said.lost,
                "double": said.double,
                "left": len(self.ending.lives),
                "wrongly_counted": len(self.wrongly_counted),
                "accepted": self.ending.accepted,
                "discarded": self.ending.books.phases.get(Phase.DISCARDED, 0),
            }
        )

    def rows(self) -> list[tuple[str, ...]]:
        """What was done, what came of it."""
        tally, said, books = self.ending.tally, self.verdict, self.ending.books
        ended = ", ".join(f"{phase} {books.phases.get(phase, 0)}" for phase in _ENDS)
        of_rows = f"{said.aggregates} sums, {said.exact_aggregates} of them compared to the last bit"
        return [
            ("processes killed (SIGKILL)", f"{tally.kills}, at {tally.blows} moments"),
            ("meant as", _by_name(tally.victims)),
            ("killed while starting", f"{tally.while_starting}"),
            ("killed in a flush", f"{tally.while_flushing}"),
            ("moments at which a round was closing", f"{tally.while_closing}"),
            ("where rounds stood then, one a task", _by_name(tally.phases)),
            (
                "hangs beyond the lease; of the leader, which another replaced",
                _hangs(tally.hangs, tally.handed_over),
            ),
            ("rounds", f"{ended}; {tally.versions} model versions"),
            ("rounds that were held and then accepted", f"{self.ending.accepted}"),
            ("reports acknowledged", f"{said.acked:,}"),
            ("reports in the sums", f"{said.counted:,}"),
            ("of these without a receipt, by task", _by_name(said.unacked)),
            ("**lost**", f"**{said.lost}**"),
            ("**counted twice**", f"**{said.double}**"),
            (
                "phones that left in the middle of a round",
                _by_name(Counter(life.departure.value for life in self.ending.lives)),
            ),
            ("**counted of phones that had left**", f"**{len(self.wrongly_counted)}**"),
            ("times that a log says `task stuck`", f"{tally.stuck}"),
            ("compared", of_rows),
            ("largest rounding of the other sums, in reports", f"{said.largest_rounding:.1e}"),
            (
                "from a process's birth until it is ready",
                f"{statistics.median(tally.starts_s):.2f} s (median)",
            ),
            ("all of it", f"{tally.seconds / 60:.0f} minutes"),
        ]

    def section(self) -> Section:
        """Of BENCHMARKS.md."""
        store, kills = STORES[self.store], self.ending.tally.kills
        what = (
            "One server, killed and started anew"
            if self.store == "sqlite"
            else "Three replicas, killed alone or all at once, or sent to sleep for longer than the lease"
        )
        body = f"{what}, while phones go on as phones do.\n{_TASKS}\n\n"
        return Section(
            name=f"kills-{self.store}",
            title=f"What survives being killed, on {store}",
            command=f"make kills N={kills} STORE={self.store}",
            body=body + table(("", ""), self.rows()),
        )


def _by_name(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in Counter(counts).most_common()) or "none"


def _hangs(hangs: int, handed_over: int) -> str:
    return f"{hangs}; {handed_over}" if hangs else "none"

"""The report of a chaos run: one line for programs, a table for people, a section for BENCHMARKS.md."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Final

from tests.recovery.chaos_run import ChaosOutcome
from tests.recovery.departing_phones import COORDINATES, check_departed
from tests.recovery.invariants import ExactlyOnceCheck, check_exactly_once

from benchmarks.page import Section, table
from keyflock_server.rounds.round import Phase

_TASKS: Final = """\
Seven tasks: synchronous, carried over missed deadlines, held until an operator decides, two asynchronous
ones over one model, one whose versions are judged, and the evaluations that judge them. Every phone adds 1
at a coordinate of its own, or a power of two of words, so each model version and each evaluation says whose
reports it was made of (`tests/recovery/`)."""
_FINAL_PHASES: Final = (Phase.CLOSED, Phase.CARRIED, Phase.ABANDONED, Phase.DISCARDED)
STORES: Final = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


class ChaosReport:
    """The outcome of one run, checked and formatted.

    Args:
        outcome: What the run left behind.
        store: A key of STORES.
    """

    def __init__(self, outcome: ChaosOutcome, store: str) -> None:
        self.outcome = outcome
        self.store = store
        self.exactly_once: ExactlyOnceCheck = check_exactly_once(
            outcome.receipts.acked, outcome.recorded.without(COORDINATES)
        )
        #: Violations by reports of phones that left in the middle of a round, one line each.
        self.departed_violations = check_departed(outcome.departed, outcome.recorded)

    @property
    def is_clean(self) -> bool:
        """Whether no report was lost, counted twice or wrongly counted, and releases are whole."""
        return (
            self.exactly_once.lost == 0
            and self.exactly_once.double == 0
            and not self.departed_violations
            and not self.outcome.release_violations
        )

    def json_line(self) -> str:
        """Return the figures as one JSON object."""
        check = self.exactly_once
        return json.dumps(
            {
                "kills": self.outcome.stats.kills,
                "acked": check.acked,
                "counted": check.counted,
                "lost": check.lost,
                "double": check.double,
                "left": len(self.outcome.departed),
                "wrongly_counted": len(self.departed_violations),
                "accepted": self.outcome.accepted,
                "discarded": self.outcome.recorded.phases.get(Phase.DISCARDED, 0),
                "release_steps": self.outcome.release_steps,
                "wrongly_released": len(self.outcome.release_violations),
            }
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the table: what was done, and what came of it."""
        stats, check, recorded = self.outcome.stats, self.exactly_once, self.outcome.recorded
        ended = ", ".join(f"{phase} {recorded.phases.get(phase, 0)}" for phase in _FINAL_PHASES)
        compared = f"{check.sums} sums, {check.exact_sums} of them compared to the last bit"
        return [
            ("processes killed (SIGKILL)", f"{stats.kills}, at {stats.faults} moments"),
            ("meant as", _format_counts(stats.victims)),
            ("killed while starting", f"{stats.while_starting}"),
            ("killed in a flush", f"{stats.while_flushing}"),
            ("moments at which a round was closing", f"{stats.while_closing}"),
            ("where rounds stood then, one a task", _format_counts(stats.phases)),
            (
                "hangs beyond the lease; of the leader, which another replaced",
                _format_hangs(stats.hangs, stats.handed_over),
            ),
            ("rounds", f"{ended}; {stats.versions} model versions"),
            ("rounds that were held and then accepted", f"{self.outcome.accepted}"),
            ("steps of releases that an operator took", f"{self.outcome.release_steps}"),
            (
                "**served and not released, or gaps**",
                f"**{len(self.outcome.release_violations)}**",
            ),
            ("reports acknowledged", f"{check.acked:,}"),
            ("reports in the sums", f"{check.counted:,}"),
            ("of these without a receipt, by task", _format_counts(check.unacked)),
            ("**lost**", f"**{check.lost}**"),
            ("**counted twice**", f"**{check.double}**"),
            (
                "phones that left in the middle of a round",
                _format_counts(Counter(one.departure.value for one in self.outcome.departed)),
            ),
            ("**counted of phones that had left**", f"**{len(self.departed_violations)}**"),
            ("times that a log says `task stuck`", f"{stats.stuck}"),
            ("compared", compared),
            ("largest rounding of the other sums, in reports", f"{check.largest_rounding:.1e}"),
            (
                "from a process's birth until it is ready",
                f"{statistics.median(stats.starts_s):.2f} s (median)",
            ),
            ("all of it", f"{stats.seconds / 60:.0f} minutes"),
        ]

    def section(self) -> Section:
        """Return the section of BENCHMARKS.md."""
        store, kills = STORES[self.store], self.outcome.stats.kills
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


def _format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in Counter(counts).most_common()) or "none"


def _format_hangs(hangs: int, handed_over: int) -> str:
    return f"{hangs}; {handed_over}" if hangs else "none"

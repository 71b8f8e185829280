"""Every acknowledged report is counted exactly once, whatever the load, and the server never breaks.

Missing a goal is a matter of size; breaking one of these is a bug, and only they fail a run. Reports are
compared by their assignments, so a lost one and a double one never make up for each other.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Self

import msgspec

from keyflock_load_tests.books import StoredCounts
from keyflock_load_tests.receipts import Receipts


class Correctness(msgspec.Struct, frozen=True, kw_only=True):
    """The books of the phones and of the servers, side by side, and what must not happen beside them."""

    #: Assignments whose report was acknowledged as counted.
    reports_acked: int
    #: The reports in the rounds' sums, by the rounds' own count.
    reports_counted: int
    #: Reports sent whose answer the phones never got: the server may have counted them.
    reports_unsettled: int
    #: Acknowledged ones that no row counts, though their devices were not forgotten.
    reports_lost: int = 0
    #: Ones that a row counts and no phone can have sent.
    reports_unknown: int = 0
    #: Acknowledged ones whose devices were forgotten later: they stay in the sums, and their rows are gone.
    reports_forgotten: int = 0
    #: Reports acknowledged twice as new.
    reports_acked_twice: int = 0
    #: The number of 5xx answers other than 503.
    server_failures: int = 0
    #: What bad phones sent and the server did not answer as it should, with the number.
    hostile_surprises: Mapping[str, int] = {}
    #: Whether the servers were still running after the last visit.
    is_server_alive: bool = True
    #: The largest memory of a server, and what it must not exceed.
    peak_rss_mib: float = 0.0
    max_rss_mib: float = 2_048.0

    @classmethod
    def compared(
        cls,
        receipts: Receipts,
        stored: StoredCounts,
        *,
        forgotten: AbstractSet[str] = frozenset(),
        **others: Any,  # noqa: ANN401 - the fields that have nothing to do with the books
    ) -> Self:
        """Compare the phones' books with the database's.

        Args:
            receipts: What the phones know.
            stored: What the database counts.
            forgotten: Assignments of devices that were forgotten afterwards, with their rows.
            others: What must not happen beside lost and double reports; the fields below them.
        """
        return cls(
            reports_acked=len(receipts.acked),
            reports_counted=stored.in_rounds,
            reports_lost=len(receipts.acked - stored.assignments - forgotten),
            reports_unknown=len(stored.assignments - receipts.acked - receipts.unsettled),
            reports_unsettled=len(receipts.unsettled),
            reports_forgotten=len(forgotten & receipts.acked),
            reports_acked_twice=len(receipts.acked_twice),
            **others,
        )

    @property
    def lost(self) -> int:
        """Return how many acknowledged reports are missing: in the rows, or in the rounds' sums."""
        return max(self.reports_lost, self.reports_acked - self.reports_counted)

    @property
    def double(self) -> int:
        """Return how many reports are counted beyond those that were sent, or acknowledged twice as new."""
        surplus = self.reports_counted - self.reports_acked - self.reports_unsettled
        return max(0, self.reports_unknown, surplus) + self.reports_acked_twice

    def violations(self) -> tuple[str, ...]:
        """Return the violations, a sentence each; empty when there is none."""
        broken = []
        if self.reports_lost:
            broken.append(f"{self.reports_lost} acknowledged reports are counted by no row: lost reports.")
        if self.reports_unknown:
            broken.append(f"{self.reports_unknown} reports are counted that no phone can have sent.")
        if self.reports_counted < self.reports_acked:
            missing = self.reports_acked - self.reports_counted
            broken.append(f"{missing} acknowledged reports are missing in the rounds' sums: lost reports.")
        if self.reports_counted > self.reports_acked + self.reports_unsettled:
            surplus = self.reports_counted - self.reports_acked - self.reports_unsettled
            broken.append(f"The rounds' sums hold {surplus} reports too many: double reports.")
        if self.reports_acked_twice:
            broken.append(f"{self.reports_acked_twice} reports were acknowledged twice as new.")
        if self.server_failures:
            broken.append(f"{self.server_failures} answers were 5xx other than 503.")
        broken += [
            f"A bad phone got an answer that it should not get, {number} times: {surprise}."
            for surprise, number in self.hostile_surprises.items()
        ]
        if not self.is_server_alive:
            broken.append("A server ended during the run; its log says why.")
        if self.peak_rss_mib > self.max_rss_mib:
            broken.append(
                f"A server's memory grew to {self.peak_rss_mib:.0f} MiB; "
                f"it must stay below {self.max_rss_mib:.0f} MiB."
            )
        return tuple(broken)

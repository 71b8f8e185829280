"""Every acknowledged report is counted exactly once, whatever the load, and the server never breaks.

Missing a goal is a matter of size; breaking one of these is a bug, and only they fail a run.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Correctness:
    """The report counts of the phones and of the server, side by side."""

    #: Distinct assignments whose report was acknowledged as counted.
    reports_acked: int
    #: The reports in the rounds, by the admin API.
    reports_counted: int
    #: Reports sent whose answer the phones never got: the server may have counted them.
    reports_unsettled: int
    #: Reports acknowledged twice as new.
    reports_acked_twice: int
    #: The number of 5xx answers other than 503.
    server_failures: int
    #: Whether the server was still running after the last visit.
    is_server_alive: bool

    def violations(self) -> tuple[str, ...]:
        """Return the violations, a sentence each; empty when there is none."""
        broken = []
        if self.reports_counted < self.reports_acked:
            lost = self.reports_acked - self.reports_counted
            broken.append(f"{lost} acknowledged reports are not in any round: lost reports.")
        if self.reports_counted > self.reports_acked + self.reports_unsettled:
            surplus = self.reports_counted - self.reports_acked - self.reports_unsettled
            broken.append(f"{surplus} reports are counted that no phone can have sent: double reports.")
        if self.reports_acked_twice:
            broken.append(f"{self.reports_acked_twice} reports were acknowledged twice as new.")
        if self.server_failures:
            broken.append(f"{self.server_failures} answers were 5xx other than 503.")
        if not self.is_server_alive:
            broken.append("The server ended during the run; its log says why.")
        return tuple(broken)

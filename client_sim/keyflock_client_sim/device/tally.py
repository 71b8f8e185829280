"""What a device has done since it was installed, in numbers."""

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Counts that only grow."""

    check_ins: int = 0
    assignments: int = 0
    #: Reports that the server has acknowledged.
    reports_acked: int = 0
    #: Assignments that ended in another way.
    sessions_ended: int = 0
    calls_sent: int = 0
    #: Calls that no answer came to.
    calls_lost: int = 0
    #: Bodies that went out, those of lost calls and second sendings among them.
    bytes_up: int = 0
    #: Bodies that came in.
    bytes_down: int = 0

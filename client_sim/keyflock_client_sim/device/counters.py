"""These counters say what a device has done since it was installed."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Counts that only grow."""

    check_ins: int = 0
    assignments: int = 0
    #: Reports that the server has acknowledged.
    reports_acked: int = 0
    #: Assignments that ended in another way.
    sessions_ended: int = 0
    calls_sent: int = 0
    #: Calls that got no answer.
    calls_lost: int = 0
    #: Bytes of all bodies sent, those of lost calls and repeated attempts among them.
    bytes_up: int = 0
    #: Bytes of all bodies received.
    bytes_down: int = 0

"""What phones know of their reports, by assignment: one half of the books; see ``books`` for the other."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Receipts:
    """The reports that were sent, by what the phones know of them."""

    #: Assignments whose report the server acknowledged as counted.
    acked: set[str] = field(default_factory=set)
    #: Assignments whose report was sent, and the phone gave up before it knew the answer.
    unsettled: set[str] = field(default_factory=set)
    #: Assignments acknowledged twice without ``duplicate``: the server may have counted them twice.
    acked_twice: set[str] = field(default_factory=set)

    def send(self, assignment: str) -> None:
        """Record that a report goes out, or goes out again: from now on it may be counted."""
        if assignment not in self.acked:
            self.unsettled.add(assignment)

    def ack(self, assignment: str, *, is_duplicate: bool) -> None:
        """Record an acknowledgement."""
        if assignment in self.acked and not is_duplicate:
            self.acked_twice.add(assignment)
        self.acked.add(assignment)
        self.unsettled.discard(assignment)

    def refuse(self, assignment: str) -> None:
        """Record that the server refused a report at once, before it can have counted it."""
        self.unsettled.discard(assignment)

    def add(self, other: "Receipts") -> None:
        """Add what other phones know, of other assignments."""
        self.acked |= other.acked
        self.unsettled |= other.unsettled
        self.acked_twice |= other.acked_twice

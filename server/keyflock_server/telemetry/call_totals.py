"""Durations and bytes of calls: three series that every request counts in, looked up once for each call."""

from typing import Final

from keyflock_server.telemetry.counting import Count, Counter, Distribution, Histogram


class CallTotals:
    """The totals of one call since the process started."""

    __slots__ = ("_duration_s", "_received_bytes", "_sent_bytes")

    def __init__(self, duration_s: Distribution, received_bytes: Count, sent_bytes: Count) -> None:
        self._duration_s = duration_s
        self._received_bytes = received_bytes
        self._sent_bytes = sent_bytes

    def received(self, size_bytes: int) -> None:
        """Count a request's body."""
        self._received_bytes.value += size_bytes

    def answered(self, duration_s: float, sent_bytes: int) -> None:
        """Count an answered request."""
        self._sent_bytes.value += sent_bytes
        self._duration_s.observe(duration_s)


class CallMetrics:
    """The totals of all calls by their names.

    Args:
        durations_s: From a request's head to the answer.
        received_bytes: Bytes of bodies received.
        sent_bytes: Bytes of bodies sent.
    """

    def __init__(self, durations_s: Histogram, received_bytes: Counter, sent_bytes: Counter) -> None:
        self._families: Final = (durations_s.labels, received_bytes.labels, sent_bytes.labels)
        self._totals: dict[str, CallTotals] = {}

    def of(self, call: str) -> CallTotals:
        """Return the totals of a call; its name comes from the table of calls."""
        totals = self._totals.get(call)
        if totals is None:
            durations_s, received_bytes, sent_bytes = self._families
            totals = CallTotals(durations_s(call), received_bytes(call), sent_bytes(call))
            self._totals[call] = totals
        return totals

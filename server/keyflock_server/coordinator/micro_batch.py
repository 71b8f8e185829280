"""Reports that are summed and not yet committed. Nobody in here has been acknowledged.

Two halves. ``MicroBatch`` lives on the event loop and knows who waits; ``PendingSum`` on the workbench's
one thread and knows what was added; since that thread does one thing after the other, what ``take`` returns
is exactly the sum of the devices it names.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from keyflock_compression import CodecError, CodecSpec, DecodeLimits, Layout, decode
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.aggregation.verdicts import Admitted, Judge, Rejected, Verdict, verdict_on
from keyflock_server.protocol.identifiers import DeviceId


class Outcome(Enum):
    """What became of a pending report."""

    COUNTED = auto()
    #: The round ended without it.
    ROUND_GONE = auto()
    #: This process stops before the batch is full; the report is not counted and may be sent again.
    STOPPING = auto()


class Refusal(Exception):
    """Fault of the client: the report says what the round does not take."""

    def __init__(self, verdict: Verdict, detail: str) -> None:
        super().__init__(detail)
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class PendingReport:
    """One report that waits for its batch."""

    device: DeviceId
    digest: bytes
    weight: float
    session_shape: str
    outcome: asyncio.Future[Outcome]


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch on its way to the store."""

    sum: PartialAggregate
    devices: tuple[DeviceId, ...]


class PendingSum:
    """The sum of what was decoded since the last flush. Only the workbench's thread calls it.

    Args:
        layout: What every delta must be laid out as.
        spec: What every delta must be encoded with.
        judge: What is said of each delta.
    """

    def __init__(self, layout: Layout, spec: CodecSpec, judge: Judge) -> None:
        self._layout = layout
        self._spec = spec
        self._judge = judge
        self._sum = PartialAggregate(layout.size)
        self._devices: list[DeviceId] = []

    @property
    def count(self) -> int:
        """Reports in the sum; may be read from anywhere."""
        return len(self._devices)

    def add(self, device: DeviceId, delta: bytes, weight: float) -> Admitted:
        """Decode one delta, judge it, and take it in; what was said of it.

        Raises:
            Refusal: it is no delta of this round, or says what cannot be. Nothing was added.
        """
        limits = DecodeLimits(max_container_bytes=len(delta))
        try:
            update = decode(delta, self._layout, spec=self._spec, limits=limits)
        except CodecError as error:
            raise Refusal(verdict_on(error), str(error)) from None
        said = self._judge.judge(update, self._layout)
        if isinstance(said, Rejected):
            raise Refusal(said.verdict, said.detail)
        self._sum.add(said.update, weight, said.scale)
        self._devices.append(device)
        return said

    def take(self, may_take: Callable[[int], bool]) -> Taken | None:
        """All that is there, if so many reports may be taken; begins anew then.

        Asked here and not on the event loop: until this thread comes to it, the sum goes on growing.
        """
        if not may_take(len(self._devices)):
            return None
        taken = Taken(self._sum, tuple(self._devices))
        self._sum = PartialAggregate(self._layout.size)
        self._devices = []
        return taken

    def give_back(self, taken: Taken) -> None:
        """A batch whose commit failed."""
        self._sum = taken.sum.merged(self._sum)
        self._devices = [*taken.devices, *self._devices]


class MicroBatch:
    """Who waits for the next flush.

    Args:
        pending_sum: The other half.
    """

    def __init__(self, pending_sum: PendingSum) -> None:
        self.sum = pending_sum
        self._waiting: dict[DeviceId, PendingReport] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def get(self, device: DeviceId) -> PendingReport | None:
        """The device's report, if one waits."""
        return self._waiting.get(device)

    def reserve(self, report: PendingReport) -> None:
        """A place for a report that is about to be decoded."""
        self._waiting[report.device] = report

    def withdraw(self, device: DeviceId) -> None:
        """The report was refused."""
        self._waiting.pop(device, None)

    def named(self, devices: tuple[DeviceId, ...]) -> list[PendingReport]:
        """The reports of these devices, which still wait."""
        return [self._waiting[device] for device in devices]

    def settle(self, devices: tuple[DeviceId, ...], outcome: Outcome) -> None:
        """These devices' reports wait no more."""
        for device in devices:
            report = self._waiting.pop(device)
            if not report.outcome.done():
                report.outcome.set_result(outcome)

    def settle_all(self, outcome: Outcome) -> None:
        """Nobody waits any more."""
        self.settle(tuple(self._waiting), outcome)

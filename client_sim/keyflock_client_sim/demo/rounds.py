"""The demo's rounds: the fleet runs, the server is polled, and versions are evaluated."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from keyflock_client_sim.demo.display import Display
from keyflock_client_sim.demo.result import RoundRow
from keyflock_client_sim.demo.version_evaluator import VersionEvaluator
from keyflock_client_sim.device.device_events import AssignmentEnded, EndReason, ReportAcked
from keyflock_client_sim.drivers.fleet_stats import FleetEvent
from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_client_sim.training_setup.options import DemoError
from keyflock_server.protocol.operator.rounds import RoundView
from keyflock_server.protocol.operator_client import OperatorClient

#: The time between two polls of the server.
POLL_S: Final = 0.2
#: Without a single report for so long, something is wrong.
MAX_IDLE_S: Final = 120.0
#: The ends of an assignment in a round that has enough reports without the phone's.
_NOT_NEEDED: Final = frozenset({EndReason.DROPPED, EndReason.REBASED, EndReason.ROUND_OVER})


@dataclass(slots=True)
class RoundStats:
    """Counts of phones' events by round."""

    delta_bytes: Counter[str] = field(default_factory=Counter)
    acked: Counter[str] = field(default_factory=Counter)
    #: Phones that finished after the round had enough reports.
    not_needed: Counter[str] = field(default_factory=Counter)

    def record(self, fleet_event: FleetEvent) -> None:
        """Count an event; this is the fleet's listener."""
        match fleet_event.event:
            case ReportAcked(round=name, delta_bytes=size):
                self.acked[name] += 1
                self.delta_bytes[name] += size
            case AssignmentEnded(round=name, reason=ending) if ending in _NOT_NEEDED:
                self.not_needed[name] += 1

    def row(self, view: RoundView) -> RoundRow:
        """Return the row of a committed round, not evaluated yet."""
        if view.result_version is None or view.closed_at is None:
            raise ValueError(f"round {view.id} has made no version")
        drop_outs = view.assigned - view.counted - self.not_needed[view.id]
        return RoundRow(
            sequence=view.sequence,
            version=view.result_version,
            reports=view.counted,
            drop_outs=max(0, drop_outs),
            recall=None,
            bytes_per_report=self.delta_bytes[view.id] / max(1, self.acked[view.id]),
            seconds=(view.closed_at - view.opened_at).total_seconds(),
        )


@dataclass(slots=True)
class DemoRounds:
    """Runs a task's rounds, from the first to the last or until the time is up."""

    admin: OperatorClient
    fleet: RealTimeFleet
    stats: RoundStats
    evaluator: VersionEvaluator
    display: Display
    parameters: int
    clock: Callable[[], float]

    async def run(self, task: str, *, wanted: int, until_s: float) -> tuple[RoundRow, ...]:
        """Run the fleet until ``wanted`` rounds are committed, or ``clock`` reaches ``until_s``.

        Guarantees:
            When it returns, no phone has an unsettled report, and every committed
            round has its row.
        Raises:
            DemoError: the rounds stand still, or one did not pass the server's checks.
        """
        committed: asyncio.Queue[RoundRow | None] = asyncio.Queue()
        try:
            async with asyncio.TaskGroup() as group:
                fleet_run = group.create_task(self.fleet.run())
                evaluation = group.create_task(self._evaluate_versions(committed))
                await self._poll_rounds(task, committed, wanted, until_s)
                self.fleet.stop()
                await fleet_run
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return tuple(evaluation.result())

    async def _poll_rounds(
        self, task: str, committed: asyncio.Queue[RoundRow | None], wanted: int, until_s: float
    ) -> None:
        committed_count = 0
        last_report_at_s, reports = self.clock(), 0
        while committed_count < wanted and self.clock() < until_s:
            await asyncio.sleep(POLL_S)
            views = await self.admin.rounds(task)
            finished = [
                view for view in views if view.result_version is not None and view.closed_at is not None
            ]
            for view in finished[committed_count:]:
                committed.put_nowait(self.stats.row(view))
            committed_count = len(finished)
            if views and views[-1].phase == "held":
                raise DemoError(f"Round {views[-1].id} is held: {views[-1].detail}")
            self.display.show_round(views[-1] if views else None, committed_count, wanted, self.fleet.stats)
            if self.fleet.stats.reports_acked > reports:
                last_report_at_s, reports = self.clock(), self.fleet.stats.reports_acked
            if self.clock() - last_report_at_s > MAX_IDLE_S:
                raise DemoError(
                    f"No phone could report for {MAX_IDLE_S:.0f} s; the server's log may say why."
                )
        if committed_count < wanted:
            await self.admin.cancel_task(task, reason="The demo ends early.")
        committed.put_nowait(None)

    async def _evaluate_versions(self, committed: asyncio.Queue[RoundRow | None]) -> list[RoundRow]:
        rows: list[RoundRow] = []
        while (row := await committed.get()) is not None:
            evaluated = row.with_recall(await self.evaluator.evaluate_on_sample(row.version))
            rows.append(evaluated)
            self.display.show_row(evaluated, self.parameters)
        return rows

"""The rounds of the demo as they happen: the fleet lives, the server is asked, versions are judged."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from keyflock_client_sim.demo.admin_client import AdminClient
from keyflock_client_sim.demo.display import Display
from keyflock_client_sim.demo.judge import Judge
from keyflock_client_sim.demo.options import DemoError
from keyflock_client_sim.demo.result import RoundRow
from keyflock_client_sim.device.notices import Acked, Ended, Ending
from keyflock_client_sim.drivers.books import Happening
from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_server.protocol.operator import RoundView

#: Between two questions to the server.
POLL_S: Final = 0.2
#: Without a single report for so long, something is wrong.
STANDSTILL_S: Final = 120.0
#: How a phone learns that the round has enough reports without its own.
_NOT_NEEDED: Final = frozenset({Ending.DROPPED, Ending.REBASED, Ending.GONE})


@dataclass(slots=True)
class Ledger:
    """What phones went through, by round."""

    delta_bytes: Counter[str] = field(default_factory=Counter)
    acked: Counter[str] = field(default_factory=Counter)
    #: Finished, and told that the round has enough.
    not_needed: Counter[str] = field(default_factory=Counter)

    def enter(self, happening: Happening) -> None:
        """Counts what happened; the fleet's watch."""
        match happening.notice:
            case Acked(round=name, delta_bytes=size):
                self.acked[name] += 1
                self.delta_bytes[name] += size
            case Ended(round=name, ending=ending) if ending in _NOT_NEEDED:
                self.not_needed[name] += 1

    def row(self, view: RoundView) -> RoundRow:
        """A committed round, not judged yet."""
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
class Rounds:
    """A task's rounds, from the first to the last or until time is up."""

    admin: AdminClient
    fleet: RealTimeFleet
    ledger: Ledger
    judge: Judge
    display: Display
    parameters: int
    clock: Callable[[], float]

    async def play(self, task: str, *, wanted: int, until_s: float) -> tuple[RoundRow, ...]:
        """Lets the fleet live until ``wanted`` rounds are committed, or ``clock`` says ``until_s``.

        Guarantees:
            When it returns, no phone has a report under way whose fate it does not know, and every committed
            round has its row.
        Raises:
            DemoError: the rounds stand still, or one did not pass the server's checks.
        """
        committed: asyncio.Queue[RoundRow | None] = asyncio.Queue()
        try:
            async with asyncio.TaskGroup() as group:
                living = group.create_task(self.fleet.run())
                judging = group.create_task(self._judge(committed))
                await self._follow(task, committed, wanted, until_s)
                self.fleet.stop()
                await living
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return tuple(judging.result())

    async def _follow(
        self, task: str, committed: asyncio.Queue[RoundRow | None], wanted: int, until_s: float
    ) -> None:
        seen = 0
        last_sign_s, reports = self.clock(), 0
        while seen < wanted and self.clock() < until_s:
            await asyncio.sleep(POLL_S)
            views = await self.admin.rounds(task)
            finished = [
                view for view in views if view.result_version is not None and view.closed_at is not None
            ]
            for view in finished[seen:]:
                committed.put_nowait(self.ledger.row(view))
            seen = len(finished)
            if views and views[-1].phase == "held":
                raise DemoError(f"Round {views[-1].id} is held: {views[-1].detail}")
            self.display.show_round(views[-1] if views else None, seen, wanted, self.fleet.books)
            if self.fleet.books.reports_acked > reports:
                last_sign_s, reports = self.clock(), self.fleet.books.reports_acked
            if self.clock() - last_sign_s > STANDSTILL_S:
                raise DemoError(
                    f"No phone could report for {STANDSTILL_S:.0f} s; the server's log may say why."
                )
        if seen < wanted:
            await self.admin.cancel_task(task)
        committed.put_nowait(None)

    async def _judge(self, committed: asyncio.Queue[RoundRow | None]) -> list[RoundRow]:
        rows: list[RoundRow] = []
        while (row := await committed.get()) is not None:
            judged = row.with_recall(await self.judge.at_a_glance(row.version))
            rows.append(judged)
            self.display.show_row(judged, self.parameters)
        return rows

"""Devices and what is held against them: strikes, quarantine, and what operators see and do about it."""

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.aggregation.verdicts import STRIKES, Verdict
from keyflock_server.coordinator.desk import OpenRound
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.views import device_view
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId
from keyflock_server.protocol.messages import Refusal, RefusalReason, ReturnWindow
from keyflock_server.protocol.operator import Devices, DeviceView, QuarantineOrder
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.rounds.standing import (
    Standing,
    Strike,
    after_refusal,
    by_operator,
    is_systemic,
    stored_standing,
)
from keyflock_server.storage.records import DeviceRecord

#: Devices in one list.
MAX_LISTED: Final = 1_000
_DAY_S: Final = 86_400.0
#: How long another process's quarantine may go unnoticed by uploads; check-ins see it at once.
_REFRESH: Final = timedelta(seconds=5)
#: Rounds whose refused devices are remembered.
_KEPT_ROUNDS: Final = 64
_LONGEST_S: Final = 31_536_000.0
_DETAIL: Final = "Reports of this device were refused repeatedly; it is kept out for a while."


class Standings:
    """Keeps devices out.

    Uploads ask a table in memory, read anew every few seconds, so that an honest report costs no query;
    check-ins ask the row, which they read in any case.
    """

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._until: dict[DeviceId, datetime] = {}
        self._read_at: datetime | None = None
        self._refused: OrderedDict[RoundId, set[DeviceId]] = OrderedDict()

    async def refresh(self) -> None:
        """Learn what other processes have decided, if that is some time ago."""
        now = self._world.clock()
        if self._read_at is None or not timedelta(0) <= now - self._read_at < _REFRESH:
            self._until = await self._world.store.devices.quarantined(now)
            self._read_at = now

    def check(self, device: DeviceId) -> None:
        """Raises Refused ``quarantined`` for a device that is kept out; its check-in hears for how long."""
        now = self._world.clock()
        until = self._until.get(device)
        if until is not None and now < until:
            raise Refused(ProblemCode.QUARANTINED, _DETAIL)

    def refusal(self, device: DeviceRecord) -> Refusal | None:
        """What a device that is kept out hears when it checks in; None for all others."""
        now, until = self._world.clock(), device.quarantined_until
        if until is None or until <= now:
            return None
        return Refusal(reason=RefusalReason.QUARANTINED, return_window=_window(until, now), detail=_DETAIL)

    async def strike(self, opened: OpenRound, device: DeviceId, verdict: Verdict) -> None:
        """A report of the device was refused: hold it against the device, if it is to be."""
        if verdict not in STRIKES:
            return
        refused = self._refused.setdefault(opened.id, set())
        refused.add(device)
        while len(self._refused) > _KEPT_ROUNDS:
            self._refused.popitem(last=False)
        # The report that is being refused has its place in the batch no more.
        if is_systemic(opened.round.counted + len(opened.batch), len(refused)):
            self._world.observer.strikes_withheld(opened.round.task, len(refused))
            return
        now = self._world.clock()
        this = Strike(at=now, round=opened.id, verdict=verdict.value)
        while True:
            row = await self._world.store.devices.get(device)
            after = None
            if row is not None:
                before = stored_standing(row.standing_json)
                after = after_refusal(before, this, opened.round.spec.quarantine)
            if row is None or after is None:
                return
            if await self._write(row, after):
                break
        if after.is_quarantined(now):
            self._world.observer.quarantined(opened.round.task)

    # --- operators ----------------------------------------------------------------------------------

    async def devices(self, population: PopulationName) -> Devices:
        """Devices of a population, those ever quarantined first; raises Refused ``population_unknown``."""
        store = self._world.store
        if await store.populations.get(population) is None:
            raise Refused(ProblemCode.POPULATION_UNKNOWN, "There is no such population here.")
        now = self._world.clock()
        rows = await store.devices.some(population, MAX_LISTED)
        total = await store.devices.count(population)
        return Devices(devices=[device_view(row, now) for row in rows], total=total)

    async def device(self, device: DeviceId) -> DeviceView:
        """One device; raises Refused ``not_found``."""
        return device_view(await self._row(device), self._world.clock())

    async def quarantine(self, device: DeviceId, order: QuarantineOrder) -> DeviceView:
        """Keep a device out by hand; an assignment that it holds is no use to it any more."""
        while True:
            row, now = await self._row(device), self._world.clock()
            after = by_operator(stored_standing(row.standing_json), order.reason, now, order.days * _DAY_S)
            if await self._write(row, after):
                return await self.device(device)

    async def release(self, device: DeviceId) -> DeviceView:
        """Let a device in again, with nothing held against it. One that was never kept out stays as it is."""
        while True:
            row = await self._row(device)
            if row.standing_json is None or await self._write(row, None):
                return await self.device(device)

    async def _row(self, device: DeviceId) -> DeviceRecord:
        row = await self._world.store.devices.get(device)
        if row is None:
            raise Refused(ProblemCode.NOT_FOUND, "There is no such device here.")
        return row

    async def _write(self, row: DeviceRecord, after: Standing | None) -> bool:
        quarantine = None if after is None else after.quarantine
        until = None if quarantine is None else quarantine.until
        data = None if after is None else after.to_json()
        if not await self._world.store.devices.set_standing(row.id, row.standing_json, data, until):
            return False
        self._until.pop(row.id, None)
        if until is not None:
            self._until[row.id] = until
        return True


def _window(until: datetime, now: datetime) -> ReturnWindow:
    """From the end of the quarantine, spread over a tenth of what is left and an hour at least."""
    left_s = min((until - now).total_seconds(), _LONGEST_S)
    return ReturnWindow(min_s=left_s, max_s=min(left_s + max(3_600.0, 0.1 * left_s), _LONGEST_S))

"""The quarantine service records violations, keeps devices out, and shows operators their devices."""

from datetime import datetime
from typing import Final

from cachetools import FIFOCache

from keyflock_server.aggregation.verdicts import VIOLATIONS, Verdict
from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.task_state import OpenRound
from keyflock_server.coordinator.views import device_view
from keyflock_server.protocol.identifiers import DeviceId, RoundId
from keyflock_server.protocol.messages import Refusal, RefusalReason, ReturnWindow
from keyflock_server.protocol.operator.devices import DeviceView, QuarantineOrder
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.quarantine import (
    Quarantine,
    Violation,
    after_violation,
    is_systemic,
    quarantined_by_operator,
    stored_quarantine,
)
from keyflock_server.storage.records import DeviceRecord

_DAY_S: Final = 86_400.0
#: Maximum number of rounds whose devices with rejected reports are remembered.
_MAX_TRACKED_ROUNDS: Final = 64
_MAX_WINDOW_S: Final = 31_536_000.0
_DETAIL: Final = "Reports of this device were refused repeatedly; it is kept out for a while."


class QuarantineService:
    """Quarantines devices and keeps them out: uploads and check-ins ask memory (``DeviceActivity``)."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._refused_devices: FIFOCache[RoundId, set[DeviceId]] = FIFOCache(_MAX_TRACKED_ROUNDS)

    def check(self, device: DeviceId) -> None:
        """Raise ApiError ``quarantined`` for a quarantined device; its check-in learns for how long."""
        if self._deps.activity.quarantined_until(device, self._deps.clock()) is not None:
            raise ApiError(ProblemCode.QUARANTINED, _DETAIL)

    def refusal(self, device: DeviceId, now: datetime) -> Refusal | None:
        """Return the answer to a quarantined device's check-in; None for all other devices."""
        until = self._deps.activity.quarantined_until(device, now)
        if until is None:
            return None
        return Refusal(reason=RefusalReason.QUARANTINED, return_window=_window(until, now), detail=_DETAIL)

    async def record_violation(self, opened: OpenRound, device: DeviceId, verdict: Verdict) -> None:
        """Record that a report of the device was rejected, if the verdict counts as a violation."""
        if verdict not in VIOLATIONS:
            return
        refused = self._refused_devices.setdefault(opened.id, set())
        refused.add(device)
        # The rejected report is no longer in the batch.
        if is_systemic(opened.round.counted + len(opened.batch), len(refused)):
            self._deps.observer.violations_withheld(opened.round.task, len(refused))
            return
        now = self._deps.clock()
        violation = Violation(at=now, round=opened.id, verdict=verdict.value)
        while True:
            row = await self._deps.store.devices.get(device)
            after = None
            if row is not None:
                before = stored_quarantine(row.standing_json)
                after = after_violation(before, violation, opened.round.spec.quarantine)
            if row is None or after is None:
                return
            if await self._write(row, after):
                break
        if after.is_quarantined(now):
            self._deps.observer.quarantined(opened.round.task)

    # --- operators ----------------------------------------------------------------------------------

    async def device(self, device: DeviceId) -> DeviceView:
        """Return one device; raises ApiError ``not_found``."""
        row = await self._row(device)
        known = await self._deps.store.populations.get(row.population)
        if known is None:  # it is being deleted, and its devices with it
            raise _device_unknown()
        return device_view(row, known.shown_name, self._deps.clock())

    async def quarantine(
        self, device: DeviceId, order: QuarantineOrder, *, audit: AuditContext
    ) -> DeviceView:
        """Quarantine a device by an operator's order; an assignment that it has is of no use any more."""
        while True:
            row, now = await self._row(device), self._deps.clock()
            after = quarantined_by_operator(
                stored_quarantine(row.standing_json), order.reason, now, order.days * _DAY_S
            )
            if await self._write(row, after, audit):
                return await self.device(device)

    async def release(self, device: DeviceId, *, audit: AuditContext) -> DeviceView:
        """End a quarantine and delete all violations. A device without any stays unchanged."""
        while True:
            row = await self._row(device)
            is_free = row.standing_json is None and audit.revision is None
            if is_free or await self._write(row, None, audit):
                return await self.device(device)

    async def _row(self, device: DeviceId) -> DeviceRecord:
        row = await self._deps.store.devices.get(device)
        if row is None:
            raise _device_unknown()
        return row

    async def _write(
        self, row: DeviceRecord, after: Quarantine | None, audit: AuditContext | None = None
    ) -> bool:
        quarantine = None if after is None else after.last
        until = None if quarantine is None else quarantine.until
        data = None if after is None else after.to_json()
        devices, now = self._deps.store.devices, self._deps.clock()
        if audit is not None:
            audit = audit.about(self._deps.revocations.digest(row.id))
        if not await devices.set_quarantine(row.id, row.standing_json, data, until, now, audit=audit):
            return False
        self._deps.activity.set_quarantine(row.id, until)
        return True


def _device_unknown() -> ApiError:
    return ApiError(ProblemCode.NOT_FOUND, "There is no such device here.")


def _window(until: datetime, now: datetime) -> ReturnWindow:
    """Return a window from the quarantine's end, spread over a tenth of the rest and an hour at least."""
    left_s = min((until - now).total_seconds(), _MAX_WINDOW_S)
    return ReturnWindow(min_s=left_s, max_s=min(left_s + max(3_600.0, 0.1 * left_s), _MAX_WINDOW_S))

"""Answers operators' calls about devices."""

from collections.abc import Sequence
from typing import Any

from keyflock_server.coordinator.erasure import ErasureService
from keyflock_server.coordinator.operator_lists import OperatorLists
from keyflock_server.coordinator.quarantine_service import QuarantineService
from keyflock_server.coordinator.token_revocations import TokenRevocations
from keyflock_server.http.operators.cursors import decode_cursor, encode_cursor
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.http.personal_endpoints import PersonalEndpoints
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import Forgotten
from keyflock_server.protocol.operator.call import NoBody, Query, ReasonOrder
from keyflock_server.protocol.operator.devices import (
    DEVICE,
    DEVICES,
    FORGET_DEVICE,
    QUARANTINE_DEVICE,
    RELEASE_DEVICE,
    REVOKE_DEVICE,
    DeviceForgotten,
    DeviceList,
    DeviceQuery,
    DeviceView,
    QuarantineOrder,
)


class DeviceResource:
    """The handlers of the calls about devices.

    Args:
        quarantines: Shows devices and quarantines them.
        revocations: Makes devices' tokens void.
        lists: Lists devices.
        erasure: Erases devices.
        personal: Erases their personal models with them.
    """

    def __init__(
        self,
        quarantines: QuarantineService,
        revocations: TokenRevocations,
        lists: OperatorLists,
        erasure: ErasureService,
        personal: PersonalEndpoints,
    ) -> None:
        self._erasure = erasure
        self._personal = personal
        self._lists = lists
        self._quarantines = quarantines
        self._revocations = revocations

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(DEVICES, self._list)
        handlers.add(DEVICE, self._get)
        handlers.add(QUARANTINE_DEVICE, self._quarantine, revision=self._revision)
        handlers.add(RELEASE_DEVICE, self._release, revision=self._revision)
        handlers.add(REVOKE_DEVICE, self._revoke, revision=self._revision)
        handlers.add(FORGET_DEVICE, self._forget, revision=self._revision)

    async def _list(self, request: OperatorRequest[DeviceQuery, NoBody]) -> DeviceList:
        query = request.query
        after = decode_cursor(query.after, DeviceId)
        page = await self._lists.devices(request.population, after, query.limit, query)
        return DeviceList(items=page.items, next=encode_cursor(page.next))

    async def _get(self, request: OperatorRequest[Query, NoBody]) -> DeviceView:
        return await self._quarantines.device(request.device)

    async def _quarantine(self, request: OperatorRequest[Query, QuarantineOrder]) -> DeviceView:
        audit = request.audit("device.quarantine", request.body.reason)
        return await self._quarantines.quarantine(request.device, request.body, audit=audit)

    async def _release(self, request: OperatorRequest[Query, ReasonOrder]) -> DeviceView:
        audit = request.audit("device.release", request.body.reason)
        return await self._quarantines.release(request.device, audit=audit)

    async def _revoke(self, request: OperatorRequest[Query, ReasonOrder]) -> DeviceView:
        audit = request.audit("device.revoke", request.body.reason)
        await self._revocations.revoke(request.device, audit=audit)
        return await self._quarantines.device(request.device)

    async def _forget(self, request: OperatorRequest[Query, ReasonOrder]) -> DeviceForgotten:
        audit = request.audit("device.forget", request.body.reason)
        targets = await self._erasure.targets_of(request.device)

        async def forget(devices: Sequence[DeviceId]) -> Forgotten:
            return await self._erasure.forget(devices, audit=audit)

        forgotten = await self._personal.forget(targets, forget)
        return DeviceForgotten(
            id=request.device, personal_models=forgotten.heads, is_scrubbed=forgotten.is_scrubbed
        )

    async def _revision(self, request: OperatorRequest[Query, Any]) -> str:
        return (await self._quarantines.device(request.device)).revision

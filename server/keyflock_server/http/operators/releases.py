"""Answers operators' calls about releases."""

from typing import Any

from keyflock_server.coordinator.release_service import ReleaseService
from keyflock_server.http.endpoint_group import with_header
from keyflock_server.http.operators.cursors import decode_cursor, encode_cursor
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.http.responses import JSON
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.operator.call import NoBody, Query, ReasonOrder
from keyflock_server.protocol.operator.pages import PageQuery
from keyflock_server.protocol.operator.promotion_policy import PromotionPolicy
from keyflock_server.protocol.operator.releases import (
    HOLD_RELEASE,
    PROMOTE_RELEASE,
    RELEASE,
    RELEASE_GATE,
    RELEASE_HISTORY,
    RELEASE_POLICY,
    RELEASES,
    ROLL_BACK_RELEASE,
    SET_RELEASE_POLICY,
    START_RELEASE,
    GateQuery,
    GateView,
    PolicyOrder,
    PromoteOrder,
    ReleaseHistory,
    ReleaseList,
    ReleaseQuery,
    ReleaseRollbackOrder,
    ReleaseView,
    StartOrder,
)


class ReleaseResource:
    """The handlers of the calls about releases.

    Args:
        service: Shows releases, and takes their steps.
    """

    def __init__(self, service: ReleaseService) -> None:
        self._service = service

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(RELEASES, self._list)
        handlers.add(RELEASE, self._get)
        handlers.add(RELEASE_HISTORY, self._history)
        handlers.add(RELEASE_GATE, self._gate)
        handlers.add(RELEASE_POLICY, self._policy)
        handlers.add(SET_RELEASE_POLICY, self._set_policy, revision=self._policy_revision)
        handlers.add(START_RELEASE, self._start, revision=self._revision)
        handlers.add(PROMOTE_RELEASE, self._promote, revision=self._revision)
        handlers.add(HOLD_RELEASE, self._hold, revision=self._revision)
        handlers.add(ROLL_BACK_RELEASE, self._roll_back, revision=self._revision)

    async def _list(self, request: OperatorRequest[PageQuery, NoBody]) -> ReleaseList:
        after = decode_cursor(request.query.after, PopulationName)
        items, following = await self._service.page(after, request.query.limit)
        return ReleaseList(items=items, next=encode_cursor(following))

    async def _get(self, request: OperatorRequest[ReleaseQuery, NoBody]) -> ReleaseView:
        device = request.query.device
        return await self._service.release(request.population, None if device is None else DeviceId(device))

    async def _history(self, request: OperatorRequest[PageQuery, NoBody]) -> ReleaseHistory:
        before = decode_cursor(request.query.after, int)
        items, following = await self._service.history(request.population, before, request.query.limit)
        return ReleaseHistory(items=items, next=encode_cursor(following))

    async def _gate(self, request: OperatorRequest[GateQuery, NoBody]) -> GateView:
        return await self._service.gate(request.population, request.query.candidate)

    async def _policy(self, request: OperatorRequest[Query, NoBody]) -> Response:
        return _with_revision(*await self._service.policy(request.population))

    async def _set_policy(self, request: OperatorRequest[Query, PolicyOrder]) -> Response:
        audit = request.audit("release.set_policy", request.body.reason)
        return _with_revision(*await self._service.set_policy(request.population, request.body, audit=audit))

    async def _policy_revision(self, request: OperatorRequest[Any, Any]) -> int:
        return (await self._service.policy(request.population))[1]

    async def _start(self, request: OperatorRequest[Query, StartOrder]) -> ReleaseView:
        audit = request.audit("release.start", request.body.reason)
        return await self._service.start(request.population, request.body, audit=audit)

    async def _promote(self, request: OperatorRequest[Query, PromoteOrder]) -> ReleaseView:
        audit = request.audit("release.promote", request.body.reason)
        return await self._service.promote(request.population, request.body, audit=audit)

    async def _hold(self, request: OperatorRequest[Query, ReasonOrder]) -> ReleaseView:
        audit = request.audit("release.hold", request.body.reason)
        return await self._service.hold(request.population, audit=audit)

    async def _roll_back(self, request: OperatorRequest[Query, ReleaseRollbackOrder]) -> ReleaseView:
        audit = request.audit("release.roll_back", request.body.reason)
        return await self._service.roll_back(request.population, request.body, audit=audit)

    async def _revision(self, request: OperatorRequest[Any, Any]) -> int:
        return (await self._service.release(request.population)).revision


def _with_revision(policy: PromotionPolicy, revision: int) -> Response:
    """Return a policy under the ETag of its population, whose revision grows with it."""
    return with_header(JSON.response(policy), "etag", f'"{revision}"')

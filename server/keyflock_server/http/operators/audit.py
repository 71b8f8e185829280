"""Answers operators' calls about the audit log."""

from keyflock_server.coordinator.audit_service import AuditService
from keyflock_server.http.operators.cursors import decode_cursor, encode_cursor
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.protocol.operator.audit import (
    AUDIT_ENTRY,
    AUDIT_LOG,
    AUDIT_VERIFICATION,
    AuditEntryDetail,
    AuditLog,
    AuditQuery,
    AuditVerification,
    VerificationQuery,
)
from keyflock_server.protocol.operator.call import NoBody, Query


class AuditResource:
    """The handlers of the calls about the audit log.

    Args:
        service: Shows and verifies the log.
    """

    def __init__(self, service: AuditService) -> None:
        self._service = service

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(AUDIT_LOG, self._list)
        handlers.add(AUDIT_ENTRY, self._get)
        handlers.add(AUDIT_VERIFICATION, self._verify)

    async def _list(self, request: OperatorRequest[AuditQuery, NoBody]) -> AuditLog:
        page = await self._service.page(request.query, decode_cursor(request.query.after, int))
        return AuditLog(items=page.items, next=encode_cursor(page.next))

    async def _get(self, request: OperatorRequest[Query, NoBody]) -> AuditEntryDetail:
        return await self._service.entry(request.path_params["sequence"])

    async def _verify(self, request: OperatorRequest[VerificationQuery, NoBody]) -> AuditVerification:
        return await self._service.verify(request.query)

"""Answers operators' calls about model versions."""

from keyflock_server.coordinator.version_service import VersionService
from keyflock_server.http import caching
from keyflock_server.http.etags import etag_response
from keyflock_server.http.operators.cursors import decode_cursor, encode_cursor
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.protocol.operator.call import OCTETS, NoBody, Query, ReasonOrder
from keyflock_server.protocol.operator.pages import PageQuery
from keyflock_server.protocol.operator.versions import (
    COMPARE_VERSIONS,
    PIN_VERSION,
    UNPIN_VERSION,
    VERSION,
    VERSION_CHECKPOINT,
    VERSION_DOWNLOAD,
    VERSIONS,
    ComparisonQuery,
    DownloadQuery,
    VersionComparison,
    VersionList,
    VersionView,
)
from keyflock_server.releases.model_version import download_digest


class VersionResource:
    """The handlers of the calls about model versions.

    Args:
        service: Shows, compares, downloads and pins versions.
    """

    def __init__(self, service: VersionService) -> None:
        self._service = service

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(VERSIONS, self._list)
        handlers.add(VERSION, self._get)
        handlers.add(COMPARE_VERSIONS, self._compare)
        handlers.add(VERSION_CHECKPOINT, self._checkpoint)
        handlers.add(VERSION_DOWNLOAD, self._download)
        handlers.add(PIN_VERSION, self._pin, revision=self._revision)
        handlers.add(UNPIN_VERSION, self._unpin, revision=self._revision)

    async def _list(self, request: OperatorRequest[PageQuery, NoBody]) -> VersionList:
        before = decode_cursor(request.query.after, ModelVersion)
        page = await self._service.list(request.population, before, request.query.limit)
        return VersionList(items=page.items, next=encode_cursor(page.next))

    async def _get(self, request: OperatorRequest[Query, NoBody]) -> VersionView:
        return await self._service.get(request.population, request.version)

    async def _compare(self, request: OperatorRequest[ComparisonQuery, NoBody]) -> VersionComparison:
        return await self._service.compare(request.population, request.version, request.query.base)

    async def _checkpoint(self, request: OperatorRequest[Query, NoBody]) -> Response:
        body = await self._service.checkpoint(request.population, request.version)
        return etag_response(request.headers, body, download_digest(body), OCTETS, caching.REVALIDATED)

    async def _download(self, request: OperatorRequest[DownloadQuery, NoBody]) -> Response:
        found = await self._service.download(request.population, request.version, request.query.weights)
        return etag_response(request.headers, found.body, found.digest, OCTETS, caching.REVALIDATED)

    async def _pin(self, request: OperatorRequest[Query, ReasonOrder]) -> VersionView:
        return await self._set_pinned(request, "version.pin", is_pinned=True)

    async def _unpin(self, request: OperatorRequest[Query, ReasonOrder]) -> VersionView:
        return await self._set_pinned(request, "version.unpin", is_pinned=False)

    async def _set_pinned(
        self, request: OperatorRequest[Query, ReasonOrder], action: str, *, is_pinned: bool
    ) -> VersionView:
        audit = request.audit(action, request.body.reason)
        return await self._service.set_pinned(
            request.population, request.version, is_pinned=is_pinned, audit=audit
        )

    async def _revision(self, request: OperatorRequest[Query, ReasonOrder]) -> str:
        return await self._service.revision(request.population, request.version)

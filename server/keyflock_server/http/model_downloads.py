"""Serves a model's bytes: 304 to a phone that has them, a delta to one that has other ones, else the whole.

Source: RFC 3229, "Delta encoding in HTTP": ``A-IM`` says which deltas a phone understands, ``If-None-Match``
which models it has, and a 226 which of these the delta applies to.
"""

from collections.abc import Mapping
from typing import Final

from keyflock_server.coordinator.downlink import Downlink
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.http import caching
from keyflock_server.http.authenticated_call import AuthenticatedCall
from keyflock_server.http.etags import etag_response, format_etag, parse_etags
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.telemetry.metrics import Metrics

#: A 226 must not be cached, so that cacheable responses differ by these headers alone.
_VARY: Final = "authorization, a-im"
_KINDS: Final = {200: "whole", 226: "delta", 304: "not_modified"}


class ModelDownloadEndpoints:
    """Serves the two addresses of a version's weights.

    Args:
        models: Gives the versions.
        downlink: Gives deltas between them.
        metrics: Counts downloads by kind.
    """

    def __init__(self, models: ModelStore, downlink: Downlink, metrics: Metrics) -> None:
        self._models = models
        self._downlink = downlink
        self._downloads = metrics.model_downloads.labels
        self._bytes = metrics.model_bytes.labels

    async def model(self, call: AuthenticatedCall, _body: bytes) -> Response:
        """Serve the weights that phones train from."""
        return await self._answer(call, ModelWeights.TRAINING)

    async def released(self, call: AuthenticatedCall, _body: bytes) -> Response:
        """Serve the weights that keyboards use."""
        return await self._answer(call, ModelWeights.RELEASED)

    async def _answer(self, call: AuthenticatedCall, weights: ModelWeights) -> Response:
        population, version = call.identity.population, call.version()
        is_released = weights is ModelWeights.RELEASED
        download = await (self._models.released_model if is_released else self._models.training_model)(
            population, version
        )
        answer = etag_response(
            call.headers,
            download.body,
            download.digest,
            calls.MODEL_MEDIA_TYPE,
            caching.IMMUTABLE,
            _VARY,
        )
        if answer.status == 200 and _accepts_deltas(call.headers):
            has = parse_etags(call.headers.get("if-none-match", ""))
            step = await self._downlink.delta(population, version, weights, has) if has else None
            if step is not None:
                answer = Response(226, {**answer.headers, **_delta_headers(step.base)}, step.body)
        kind = _KINDS[answer.status]
        self._downloads(kind).inc()
        self._bytes(kind).inc(len(answer.body))
        return answer


def _delta_headers(base: bytes) -> Mapping[str, str]:
    return {"im": calls.MODEL_DELTA, "delta-base": format_etag(base), "cache-control": caching.NEVER}


def _accepts_deltas(headers: Mapping[str, str]) -> bool:
    """Return whether our delta format is listed with a quality above zero (RFC 3229, 10.5.3)."""
    for one in headers.get("a-im", "").split(","):
        name, *parameters = (part.strip().lower() for part in one.split(";"))
        if name == calls.MODEL_DELTA:
            return not any(part.replace(" ", "") in _ZERO_QUALITY for part in parameters)
    return False


_ZERO_QUALITY: Final = frozenset({"q=0", "q=0.", "q=0.0", "q=0.00", "q=0.000"})

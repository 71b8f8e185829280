"""A model's bytes over HTTP: nothing for who has them, a delta for who has others, else the whole.

Source: RFC 3229, "Delta encoding in HTTP": ``A-IM`` says which deltas a phone understands, ``If-None-Match``
what it has, and a 226 which of these the delta is to be applied to.
"""

from collections.abc import Mapping
from typing import Final

from keyflock_server.http import caching
from keyflock_server.http.admission import Admission
from keyflock_server.http.services import SdkService
from keyflock_server.http.tagged import etag_of, tagged, tags_in
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.messages import ModelWeights
from keyflock_server.telemetry.metrics import Metrics

#: A 226 is not to be stored, so that what may be differs by these alone.
_VARY: Final = "authorization, a-im"
_KINDS: Final = {200: "whole", 226: "delta", 304: "not_modified"}


class ModelDownloads:
    """The two addresses of a version's weights.

    Args:
        service: The coordinator.
        metrics: Where downloads are counted, by kind.
    """

    def __init__(self, service: SdkService, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics

    async def model(self, admission: Admission, _body: bytes) -> Response:
        """What phones train from."""
        return await self._answer(admission, ModelWeights.TRAINING)

    async def released(self, admission: Admission, _body: bytes) -> Response:
        """What keyboards serve."""
        return await self._answer(admission, ModelWeights.RELEASED)

    async def _answer(self, admission: Admission, weights: ModelWeights) -> Response:
        population, version = admission.identity.population, admission.version()
        is_released = weights is ModelWeights.RELEASED
        download = await (self._service.released_model if is_released else self._service.model)(
            population, version
        )
        answer = tagged(
            admission.headers,
            download.body,
            download.digest,
            calls.MODEL_MEDIA_TYPE,
            caching.IMMUTABLE,
            _VARY,
        )
        if answer.status == 200 and _takes_deltas(admission.headers):
            has = tags_in(admission.headers.get("if-none-match", ""))
            step = await self._service.model_delta(population, version, weights, has) if has else None
            if step is not None:
                answer = Response(226, {**answer.headers, **_of_delta(step.base)}, step.body)
        kind = _KINDS[answer.status]
        self._metrics.model_downloads.labels(kind).inc()
        self._metrics.model_bytes.labels(kind).inc(len(answer.body))
        return answer


def _of_delta(base: bytes) -> Mapping[str, str]:
    return {"im": calls.MODEL_DELTA, "delta-base": etag_of(base), "cache-control": caching.NEVER}


def _takes_deltas(headers: Mapping[str, str]) -> bool:
    """RFC 3229, 10.5.3: our name is listed, and not with a quality of zero."""
    for one in headers.get("a-im", "").split(","):
        name, *parameters = (part.strip().lower() for part in one.split(";"))
        if name == calls.MODEL_DELTA:
            return not any(part.replace(" ", "") in _UNWANTED for part in parameters)
    return False


_UNWANTED: Final = frozenset({"q=0", "q=0.", "q=0.0", "q=0.00", "q=0.000"})

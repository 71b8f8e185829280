"""The endpoints about a user's personal model: store it, get it, delete it; ask for suggestions."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from keyflock_server.coordinator.erasure import ErasureTargets
from keyflock_server.http import caching
from keyflock_server.http.authenticated_call import AuthenticatedCall
from keyflock_server.http.endpoint_group import with_header
from keyflock_server.http.etags import etag_response
from keyflock_server.http.responses import MSGPACK
from keyflock_server.personal_models.eraser import PersonalModelEraser
from keyflock_server.personal_models.head_maps import HeadMapService
from keyflock_server.personal_models.service import PersonalModelService
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import Forgotten, HeadErased, SuggestionRequest
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.suggestions.service import SuggestionService

#: A strong ETag in the form that this server writes.
_ONE_TAG: Final = re.compile(r'"((?:[0-9a-f]{2})+)"')


class PersonalEndpoints:
    """Serves the phones' calls about a user's personal model.

    Args:
        eraser: Deletes personal models; needs no key.
        head_maps: Maps heads of one model version to heads of the next.
        personal_models: Stores personal models; None where the operator gave no keys.
        suggestions: Suggests words; None where the operator did not turn suggestions on.
    """

    def __init__(
        self,
        eraser: PersonalModelEraser,
        head_maps: HeadMapService,
        personal_models: PersonalModelService | None,
        suggestions: SuggestionService | None,
    ) -> None:
        self._eraser = eraser
        self._head_maps = head_maps
        self._personal_models = personal_models
        self._suggestions = suggestions

    async def get_head(self, call: AuthenticatedCall, _body: bytes) -> Response:
        """Serve ``GET /v1/heads/{population}``."""
        heads = self._require_personal_models(call)
        found = await heads.get(call.identity)
        return etag_response(call.headers, found.data, found.tag, calls.HEAD_MEDIA_TYPE, caching.REVALIDATED)

    async def put_head(self, call: AuthenticatedCall, body: bytes) -> Response:
        """Serve ``PUT /v1/heads/{population}``."""
        heads = self._require_personal_models(call)
        stored = await heads.put(call.identity, body, _condition(call))
        return with_header(MSGPACK.response(stored), "etag", f'"{stored.tag.hex()}"')

    async def delete_head(self, call: AuthenticatedCall, _body: bytes) -> Response:
        """Serve ``DELETE /v1/heads/{population}``."""
        heads = self._require_personal_models(call)
        return MSGPACK.response(await heads.delete(call.identity))

    async def head_map(self, call: AuthenticatedCall, _body: bytes) -> Response:
        """Serve ``GET /v1/models/{version}/head-map``."""
        found = await self._head_maps.map_to(call.identity.population, call.version())
        return etag_response(
            call.headers, found.body, found.digest, calls.HEAD_MAP_MEDIA_TYPE, caching.IMMUTABLE
        )

    async def suggest(self, call: AuthenticatedCall, body: bytes) -> Response:
        """Serve ``POST /v1/suggestions``."""
        if self._suggestions is None:
            raise ApiError(
                ProblemCode.FEATURE_OFF, "This server suggests nothing: it was started without --suggestions."
            )
        request = wire.decode(body, SuggestionRequest)
        return MSGPACK.response(await self._suggestions.suggest(call.identity, request))

    def owner_changed(self, device: DeviceId) -> None:
        """Handle that the device has enrolled anew, perhaps with another user."""
        if self._suggestions is not None:
            self._suggestions.owner_changed(device)

    async def forget(
        self, targets: ErasureTargets, forget_devices: Callable[[Sequence[DeviceId]], Awaitable[Forgotten]]
    ) -> Forgotten:
        """Delete personal models and devices for forget-me.

        Personal models go before the devices, so that after a crash between the two a token still works. They
        are deleted again afterwards, for one that was being stored meanwhile.
        """
        before = await self._erase(targets)
        forgotten = await forget_devices(targets.devices)
        for device in targets.devices:
            self.owner_changed(device)
        after = await self._erase(targets)
        return msgspec.structs.replace(
            forgotten,
            heads=before.heads + after.heads,
            is_scrubbed=before.is_scrubbed and after.is_scrubbed,
        )

    async def _erase(self, targets: ErasureTargets) -> HeadErased:
        erased = [
            await self._eraser.erase(population, owners) for population, owners in targets.owners.items()
        ]
        return HeadErased(
            heads=sum(one.heads for one in erased), is_scrubbed=all(one.is_scrubbed for one in erased)
        )

    def _require_personal_models(self, call: AuthenticatedCall) -> PersonalModelService:
        if self._personal_models is None:
            raise ApiError(
                ProblemCode.FEATURE_OFF, "This server stores no heads: it was started without --head-keys."
            )
        call.own_population()
        return self._personal_models


def _condition(call: AuthenticatedCall) -> bytes | None:
    """Return the tag that the stored model must have; empty: there must be none; None: any.

    A condition that is not understood counts as not met: to ignore it could overwrite a model that the phone
    wanted to keep.
    """
    if_match = call.headers.get("if-match")
    if_none_match = call.headers.get("if-none-match")
    if if_match is not None and if_none_match is not None:
        raise _precondition_failed("If-Match and If-None-Match exclude each other here")
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise _precondition_failed("If-None-Match takes * alone when a head is put")
        return b""
    if if_match is None:
        return None
    tag = _ONE_TAG.fullmatch(if_match.strip())
    if tag is None:
        raise _precondition_failed("If-Match takes one tag, in quotes, as ETag gave it")
    return bytes.fromhex(tag[1])


def _precondition_failed(why: str) -> ApiError:
    return ApiError(ProblemCode.PRECONDITION_FAILED, f"{why}.")

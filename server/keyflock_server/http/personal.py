"""The calls about one person's model: store a head, get it back, delete it; ask for suggestions."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from keyflock_server.http import caching
from keyflock_server.http.admission import Admission
from keyflock_server.http.documents import MSGPACK
from keyflock_server.http.plane import with_header
from keyflock_server.http.services import (
    ErasureScope,
    HeadErasing,
    HeadMapService,
    HeadService,
    SuggestionService,
)
from keyflock_server.http.tagged import tagged
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import Forgotten, HeadErased, SuggestionRequest
from keyflock_server.protocol.problems import ProblemCode, Refused

#: A strong tag as this server writes them.
_ONE_TAG: Final = re.compile(r'"((?:[0-9a-f]{2})+)"')


class PersonalCalls:
    """What the phones' endpoints do with a person's model.

    Args:
        erasing: Takes heads away; needs no key.
        maps: From heads of one version to heads of the next.
        heads: The store; None where the operator gave no keys.
        suggestions: Answers keyboards; None where the operator did not ask for it.
    """

    def __init__(
        self,
        erasing: HeadErasing,
        maps: HeadMapService,
        heads: HeadService | None,
        suggestions: SuggestionService | None,
    ) -> None:
        self._erasing = erasing
        self._maps = maps
        self._heads = heads
        self._suggestions = suggestions

    async def get_head(self, admission: Admission, _body: bytes) -> Response:
        """``GET /v1/heads/{population}``."""
        heads = self._opened(admission)
        found = await heads.get(admission.identity)
        return tagged(admission.headers, found.data, found.tag, calls.HEAD_MEDIA_TYPE, caching.REVALIDATED)

    async def put_head(self, admission: Admission, body: bytes) -> Response:
        """``PUT /v1/heads/{population}``."""
        heads = self._opened(admission)
        stored = await heads.put(admission.identity, body, _condition(admission))
        return with_header(MSGPACK.answer(stored), "etag", f'"{stored.tag.hex()}"')

    async def delete_head(self, admission: Admission, _body: bytes) -> Response:
        """``DELETE /v1/heads/{population}``."""
        heads = self._opened(admission)
        return MSGPACK.answer(await heads.delete(admission.identity))

    async def head_map(self, admission: Admission, _body: bytes) -> Response:
        """``GET /v1/models/{version}/head-map``."""
        found = await self._maps.to(admission.identity.population, admission.version())
        return tagged(
            admission.headers, found.body, found.digest, calls.HEAD_MAP_MEDIA_TYPE, caching.IMMUTABLE
        )

    async def suggest(self, admission: Admission, body: bytes) -> Response:
        """``POST /v1/suggestions``."""
        if self._suggestions is None:
            raise Refused(
                ProblemCode.FEATURE_OFF, "This server suggests nothing: it was started without --suggestions."
            )
        request = wire.decode(body, SuggestionRequest)
        return MSGPACK.answer(await self._suggestions.suggest(admission.identity, request))

    def renamed(self, device: DeviceId) -> None:
        """The device has enrolled anew, perhaps naming another user."""
        if self._suggestions is not None:
            self._suggestions.renamed(device)

    async def forget(
        self, scope: ErasureScope, forget_devices: Callable[[Sequence[DeviceId]], Awaitable[Forgotten]]
    ) -> Forgotten:
        """Forget-me: heads before the devices, so that after a crash between the two a token still works.

        And heads again after them, for one that was on its way in.
        """
        before = await self._erase(scope)
        forgotten = await forget_devices(scope.devices)
        for device in scope.devices:
            self.renamed(device)
        after = await self._erase(scope)
        return msgspec.structs.replace(
            forgotten,
            heads=before.heads + after.heads,
            is_scrubbed=before.is_scrubbed and after.is_scrubbed,
        )

    async def _erase(self, scope: ErasureScope) -> HeadErased:
        erased = [
            await self._erasing.erase(population, owners) for population, owners in scope.owners.items()
        ]
        return HeadErased(
            heads=sum(one.heads for one in erased), is_scrubbed=all(one.is_scrubbed for one in erased)
        )

    def _opened(self, admission: Admission) -> HeadService:
        if self._heads is None:
            raise Refused(
                ProblemCode.FEATURE_OFF, "This server stores no heads: it was started without --head-keys."
            )
        admission.own_population()
        return self._heads


def _condition(admission: Admission) -> bytes | None:
    """What the head to be replaced must be: that of the tag, or none at all (empty), or whatever is there.

    A condition that is not understood is one that does not hold: to leave it out would overwrite a head that
    the phone wanted to keep.
    """
    if_match = admission.headers.get("if-match")
    if_none_match = admission.headers.get("if-none-match")
    if if_match is not None and if_none_match is not None:
        raise _unmet("If-Match and If-None-Match exclude each other here")
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise _unmet("If-None-Match takes * alone when a head is put")
        return b""
    if if_match is None:
        return None
    tag = _ONE_TAG.fullmatch(if_match.strip())
    if tag is None:
        raise _unmet("If-Match takes one tag, in quotes, as ETag gave it")
    return bytes.fromhex(tag[1])


def _unmet(why: str) -> Refused:
    return Refused(ProblemCode.PRECONDITION_FAILED, f"{why}.")

"""Creations that are repeated: the same key with the same request gets the first answer again.

The key is claimed before the creation and completed after it. A process that is killed in between leaves a
claim that is void after some minutes; the creation is then made again, and refused by what is there already.

Source: draft-ietf-httpapi-idempotency-key-header.
"""

import hashlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.http.responses import JSON
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.interfaces.idempotency import IdempotencyRepository
from keyflock_server.storage.operator_records import IdempotencyRecord

HEADER: Final = "idempotency-key"
MAX_KEY_CHARS: Final = 64
KEPT: Final = timedelta(hours=24)
#: The longest time that a creation takes, with room to spare.
ABANDONED_AFTER: Final = timedelta(minutes=10)
_PRUNED_AT_ONCE: Final = 1_000


class RepeatedCreations:
    """Answers repeated creations.

    Args:
        keys: Stores the keys and the first answers.
        clock: Returns the current time, aware UTC.
    """

    def __init__(self, keys: IdempotencyRepository, clock: Callable[[], datetime]) -> None:
        self._keys = keys
        self._clock = clock

    async def answer(
        self, operator: str, key: str, call: str, digest: bytes, create: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Return the answer of ``create``, or, if this key has been answered, that answer.

        Args:
            operator: The operator's name; keys of two operators are two keys.
            key: The key.
            call: The name of the call.
            digest: SHA-256 of the request.
            create: Creates, and returns its answer.
        Raises:
            ApiError: ``malformed_request`` for a key that is none; ``conflict`` for one that stands for
                another request, or whose first request is under way; whatever ``create`` raises, after which
                the key is free again.
        """
        if not (key.isascii() and key.isprintable() and 1 <= len(key) <= MAX_KEY_CHARS):
            detail = f"Idempotency-Key is 1 to {MAX_KEY_CHARS} printable ASCII characters."
            raise ApiError(ProblemCode.MALFORMED_REQUEST, detail)
        now = self._clock()
        await self._keys.prune(now - KEPT, _PRUNED_AT_ONCE)
        claim = IdempotencyRecord(
            operator=operator, key=key, call=call, request_digest=digest, created_at=now
        )
        known = await self._keys.claim(claim, now - ABANDONED_AFTER)
        if known is not None:
            return _first_answer(known, claim)
        try:
            response = await create()
        except BaseException:
            await self._keys.release(operator, key)
            raise
        await self._keys.complete(operator, key, response.status, response.body)
        return response


def request_digest(path: str, media_type: str, body: bytes) -> bytes:
    """Return the SHA-256 by which two requests of one call are compared."""
    digest = hashlib.sha256()
    for part in (path.encode(), media_type.encode(), body):
        digest.update(len(part).to_bytes(8) + part)
    return digest.digest()


def _first_answer(known: IdempotencyRecord, again: IdempotencyRecord) -> Response:
    if (known.call, known.request_digest) != (again.call, again.request_digest):
        detail = f"This Idempotency-Key stands for another request, of {known.created_at:%Y-%m-%d %H:%M} UTC."
        raise ApiError(ProblemCode.CONFLICT, detail)
    if not known.is_complete:
        detail = "The first request with this Idempotency-Key is under way; ask again in a moment."
        raise ApiError(ProblemCode.CONFLICT, detail)
    return Response(known.status, {"content-type": JSON.media_type, "cache-control": "no-store"}, known.body)

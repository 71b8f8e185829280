"""Operators' tokens are created, listed, revoked, and recognised in the calls that carry them.

A token is read from the store at its first call and remembered for ``REVOKED_WITHIN``: so long may another
server still take one that is revoked here. A text whose id was never issued is refused without a read.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from cachetools import LRUCache

from keyflock_server.audit.context import GATE, POLICY, AuditContext
from keyflock_server.coordinator.operator_lists import Page
from keyflock_server.identity.api_tokens import ApiTokens
from keyflock_server.identity.operators import ROOT, Operator
from keyflock_server.protocol.operator.tokens import CreatedToken, TokenOrder, TokenView
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import AlreadyExists
from keyflock_server.storage.interfaces.api_tokens import ApiTokenRepository
from keyflock_server.storage.operator_records import ApiTokenRecord

#: How long a server may take a token after another one has revoked it.
REVOKED_WITHIN: Final = timedelta(seconds=2)
#: Names in the audit log that stand for no bearer of a token.
RESERVED_NAMES: Final = frozenset({ROOT.name, POLICY, GATE})
_MAX_REMEMBERED: Final = 1_024


class OperatorTokens:
    """Creates, lists, revokes and recognises operators' tokens.

    Args:
        repository: Stores them.
        texts: Makes and reads their texts.
        clock: Returns the current time, aware UTC.
        monotonic: A clock in seconds that never goes back.
    """

    def __init__(
        self,
        repository: ApiTokenRepository,
        texts: ApiTokens,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository = repository
        self._texts = texts
        self._clock = clock
        self._monotonic = monotonic
        #: What was read of each token, and when the read began.
        self._remembered: LRUCache[str, tuple[float, ApiTokenRecord | None]] = LRUCache(_MAX_REMEMBERED)

    async def bearer(self, text: str) -> Operator | None:
        """Return the operator whose token this is; None for a text that is no token here.

        Raises:
            ApiError: ``token_expired``, or ``token_invalid`` for one that was revoked: only who has the
                secret hears that.
            StorageUnavailable: the token was not read lately, and the store does not answer.
        """
        token = self._texts.parse(text)
        if token is None:
            return None
        record = await self._record(token.id)
        if not token.is_proven_by(None if record is None else record.digest) or record is None:
            return None
        if record.revoked_at is not None:
            raise ApiError(ProblemCode.TOKEN_INVALID, "This token was revoked; an admin creates another one.")
        if _is_expired(record, self._clock()):
            raise ApiError(ProblemCode.TOKEN_EXPIRED, "This token has expired; an admin creates another one.")
        return Operator(record.name, record.role, record.id)

    async def is_valid(self, token_id: str) -> bool:
        """Return whether the token of this id is neither revoked nor expired, as far as is known here.

        Raises:
            StorageUnavailable: the token was not read lately, and the store does not answer.
        """
        if token_id == ROOT.token_id:
            return True
        record = await self._record(token_id)
        return record is not None and record.revoked_at is None and not _is_expired(record, self._clock())

    async def list(self, after: str | None, limit: int) -> Page[TokenView, str]:
        """Return up to ``limit`` tokens, oldest first, beginning behind the one of the id ``after``."""
        records, now = await self._repository.all(), self._clock()
        ids = [record.id for record in records]
        start = 0 if after is None else ids.index(after) + 1 if after in ids else len(ids)
        items = [_view(record, now) for record in records[start : start + limit]]
        return Page(items, ids[start + limit - 1] if len(ids) > start + limit else None)

    async def create(self, order: TokenOrder, creator: Operator, *, audit: AuditContext) -> CreatedToken:
        """Create a token.

        Raises:
            ApiError: ``role_too_weak`` for a role that the creator's does not include; ``conflict`` for a
                name that stands for something else in the audit log.
        """
        if not creator.role.includes(order.role):
            detail = f"A token of the role {creator.role} creates none of the role {order.role}."
            raise ApiError(ProblemCode.ROLE_TOO_WEAK, detail)
        if order.name in RESERVED_NAMES:
            detail = (
                f"The name {order.name!r} stands for the server itself in the audit log; give another one."
            )
            raise ApiError(ProblemCode.CONFLICT, detail)
        while True:
            token, now = self._texts.new(), self._clock()
            record = ApiTokenRecord(
                id=token.id,
                name=order.name,
                role=order.role,
                digest=token.digest,
                created_at=now,
                created_by=creator.name,
                expires_at=None if order.lifetime_s is None else now + timedelta(seconds=order.lifetime_s),
            )
            try:
                await self._repository.add(record, audit=audit)
            except AlreadyExists:
                continue
            return CreatedToken(token=_view(record, now), text=token.text)

    async def revoke(self, id_: str, *, audit: AuditContext) -> TokenView:
        """Revoke a token, and return it; repeating it is no error.

        Raises:
            ApiError: ``not_found``.
        """
        now = self._clock()
        record = await self._repository.revoke(id_, now, audit=audit)
        if record is None:
            raise ApiError(ProblemCode.NOT_FOUND, "There is no token of this id; list them.")
        self._remembered[id_] = (self._monotonic(), record)
        return _view(record, now)

    async def _record(self, id_: str) -> ApiTokenRecord | None:
        now_s = self._monotonic()
        known = self._remembered.get(id_)
        if known is not None and now_s - known[0] < REVOKED_WITHIN.total_seconds():
            return known[1]
        record = await self._repository.get(id_)
        read_at_s, newest = self._remembered.get(id_, (now_s, record))
        if read_at_s > now_s:
            return newest  # it was revoked here while it was read
        self._remembered[id_] = (now_s, record)
        return record


def _is_expired(record: ApiTokenRecord, now: datetime) -> bool:
    return record.expires_at is not None and now >= record.expires_at


def _view(record: ApiTokenRecord, now: datetime) -> TokenView:
    return TokenView(
        id=record.id,
        name=record.name,
        role=record.role,
        state="revoked" if record.revoked_at else "expired" if _is_expired(record, now) else "active",
        created_at=record.created_at,
        created_by=record.created_by,
        expires_at=record.expires_at,
        revoked_at=record.revoked_at,
    )

"""Answers operators' calls about tokens, and about the operator who asks."""

from keyflock_server.coordinator.operator_tokens import OperatorTokens
from keyflock_server.http.operators.cursors import decode_cursor, encode_cursor
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.protocol.operator.call import NoBody, Query, ReasonOrder
from keyflock_server.protocol.operator.pages import PageQuery
from keyflock_server.protocol.operator.tokens import (
    CREATE_TOKEN,
    REVOKE_TOKEN,
    TOKENS,
    WHO_AM_I,
    CreatedToken,
    OperatorView,
    TokenList,
    TokenOrder,
    TokenView,
)


class TokenResource:
    """The handlers of the calls about tokens.

    Args:
        tokens: Creates, lists and revokes them.
    """

    def __init__(self, tokens: OperatorTokens) -> None:
        self._tokens = tokens

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(TOKENS, self._list)
        handlers.add(CREATE_TOKEN, self._create)
        handlers.add(REVOKE_TOKEN, self._revoke)
        handlers.add(WHO_AM_I, self._who_am_i)

    async def _list(self, request: OperatorRequest[PageQuery, NoBody]) -> TokenList:
        query = request.query
        page = await self._tokens.list(decode_cursor(query.after, str), query.limit)
        return TokenList(items=page.items, next=encode_cursor(page.next))

    async def _create(self, request: OperatorRequest[Query, TokenOrder]) -> CreatedToken:
        order = request.body
        return await self._tokens.create(
            order, request.operator, audit=request.audit("token.create", order.reason)
        )

    async def _revoke(self, request: OperatorRequest[Query, ReasonOrder]) -> TokenView:
        audit = request.audit("token.revoke", request.body.reason)
        return await self._tokens.revoke(request.path_params["token_id"], audit=audit)

    async def _who_am_i(self, request: OperatorRequest[Query, NoBody]) -> OperatorView:
        return OperatorView(name=request.operator.name, role=request.operator.role)

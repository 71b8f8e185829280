"""Whose token a call of the admin port carries."""

import hmac
from typing import Protocol

from keyflock_server.coordinator.operator_tokens import OperatorTokens
from keyflock_server.identity.operators import ROOT, Operator


class Authenticator(Protocol):
    """Knows the operators by their tokens."""

    async def operator(self, token: str) -> Operator | None:
        """Return the holder of this token, or None; the time it takes tells nothing about right tokens."""
        ...


class TokenAuthenticator:
    """Knows the first token, which is made with the data folder, and those that were created since.

    Args:
        root_token: The first token: that of ``root``, for which no store is asked.
        tokens: All others.
    """

    def __init__(self, root_token: str, tokens: OperatorTokens) -> None:
        self._root_token = root_token.encode()
        self._tokens = tokens

    async def operator(self, token: str) -> Operator | None:
        """See ``Authenticator``; raises ApiError for a token that has expired or was revoked."""
        if hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._root_token):
            return ROOT
        return await self._tokens.bearer(token)

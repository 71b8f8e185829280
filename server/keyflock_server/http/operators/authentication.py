"""Whose token a call of the admin port carries."""

import hmac
from typing import Protocol

from keyflock_server.identity.operators import ROOT, Operator


class Authenticator(Protocol):
    """Knows the operators by their tokens."""

    async def operator(self, token: str) -> Operator | None:
        """Return the holder of this token, or None; the time it takes tells nothing about right tokens."""
        ...


class RootTokenAuthenticator:
    """Knows the first token alone, which is made with the data folder: it is that of ``root``."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def operator(self, token: str) -> Operator | None:
        """Return ``root`` for its token, and None for any other."""
        if hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token):
            return ROOT
        return None

"""Calls to any of the servers that are there, as behind a load balancer; to none they are lost."""

import random
from typing import Final

from keyflock_client_sim.drivers.http_exchange import HttpExchange
from keyflock_server.protocol.calls import Request, Response

#: A phone does not wait longer for a server that hangs.
_TIMEOUT_S: Final = 5.0


class AnyServer:
    """A ``calls.Exchange`` to whoever serves now, drawn anew for each call.

    Args:
        rng: Draws.
        timeout_s: A call that takes longer is lost.
    """

    def __init__(self, rng: random.Random, timeout_s: float = _TIMEOUT_S) -> None:
        self._rng = rng
        self._timeout_s = timeout_s
        self._servers: dict[str, HttpExchange] = {}

    async def add(self, name: str, url: str) -> None:
        """A server is here now; its name may have been elsewhere before."""
        await self.remove(name)
        self._servers[name] = HttpExchange(url, timeout_s=self._timeout_s)

    async def remove(self, name: str) -> None:
        """A server is gone; calls under way to it are lost."""
        exchange = self._servers.pop(name, None)
        if exchange is not None:
            await exchange.__aexit__(None, None, None)

    async def close(self) -> None:
        """All are gone."""
        for name in tuple(self._servers):
            await self.remove(name)

    async def send(self, request: Request) -> Response:
        """See ``calls.Exchange``."""
        if not self._servers:
            raise ConnectionError("no server")
        exchange = self._servers[self._rng.choice(list(self._servers))]
        try:
            return await exchange.send(request)
        except RuntimeError as error:  # the session was closed under the call
            raise ConnectionError(str(error)) from None

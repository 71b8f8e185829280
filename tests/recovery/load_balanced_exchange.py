"""Calls to servers that come and go, spread over them as by a load balancer."""

import random
from typing import Final

from keyflock_client_sim.drivers.http_exchange import HttpExchange
from keyflock_server.protocol.calls import Request, Response

#: A phone does not wait longer than this for a server that hangs.
_TIMEOUT_S: Final = 5.0


class LoadBalancedExchange:
    """A ``calls.Exchange`` to the servers that run now; each call goes to one that is drawn at random.

    Args:
        rng: Draws the server of each call.
        timeout_s: A call that takes longer is lost.
    """

    def __init__(self, rng: random.Random, timeout_s: float = _TIMEOUT_S) -> None:
        self._rng = rng
        self._timeout_s = timeout_s
        self._servers: dict[str, HttpExchange] = {}

    async def add(self, name: str, url: str) -> None:
        """Add a server; one of the same name at another address is replaced."""
        await self.remove(name)
        self._servers[name] = HttpExchange(url, timeout_s=self._timeout_s)

    async def remove(self, name: str) -> None:
        """Remove a server; calls under way to it are lost."""
        exchange = self._servers.pop(name, None)
        if exchange is not None:
            await exchange.__aexit__(None, None, None)

    async def close(self) -> None:
        """Remove all servers."""
        for name in tuple(self._servers):
            await self.remove(name)

    async def send(self, request: Request) -> Response:
        """Send a request as ``calls.Exchange`` describes; without a server it is lost."""
        if not self._servers:
            raise ConnectionError("no server")
        exchange = self._servers[self._rng.choice(list(self._servers))]
        try:
            return await exchange.send(request)
        except RuntimeError as error:  # the session was closed under the call
            raise ConnectionError(str(error)) from None

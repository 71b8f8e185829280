"""An operator's client over HTTP, for as long as a block lasts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from keyflock_client_sim.drivers.http_exchange import HttpExchange
from keyflock_server.protocol.operator_client import OperatorClient


@asynccontextmanager
async def operator_client(admin_url: str, token: str) -> AsyncIterator[OperatorClient]:
    """Open a client of the server's admin port; its calls raise ``OperatorError`` or ``ConnectionError``."""
    async with HttpExchange(admin_url) as exchange:
        yield OperatorClient(exchange, token)

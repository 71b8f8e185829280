"""A response whose body is written in blocks until either end has enough.

It ends its connection: a client that wants more events connects again.
"""

import asyncio
import contextlib
from typing import Final

from aiohttp import web

from keyflock_server.http.whole_response import SERVER_NAME
from keyflock_server.protocol.calls import StreamedResponse

#: A client that takes nothing for so long is gone.
MAX_WRITE_S: Final = 30.0


class StreamingResponse(web.StreamResponse):
    """Writes one response block by block.

    Args:
        answer: The response.
    """

    def __init__(self, answer: StreamedResponse) -> None:
        super().__init__(status=answer.status, headers={**answer.headers, "Server": SERVER_NAME})
        self._answer = answer
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        """Write all blocks, and then the end.

        Raises:
            ConnectionResetError: the client has left, or reads too slowly.
        """
        request = self._req
        if self._eof_sent or request is None:
            return
        async with contextlib.aclosing(self._answer.blocks()) as blocks:
            async for block in blocks:
                await self._write(request, block)
        await super().write_eof(data)

    async def _write(self, request: web.BaseRequest, block: bytes) -> None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        try:
            async with asyncio.timeout(MAX_WRITE_S):
                await self.write(block)
                await request.writer.drain()
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError("the client does not read") from None

"""The endpoints without sockets: a simulation sends requests by function call, on its own clock."""

from collections.abc import Callable

from keyflock_server.http.operators.endpoints import OperatorEndpoints
from keyflock_server.http.readiness import Readiness, ServerState
from keyflock_server.http.sdk import SdkEndpoints
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.runtime.lifecycles import Lifecycle


class SocketlessServer:
    """A server inside its caller's event loop: a ``calls.Exchange`` for both endpoint groups.

    Nothing happens between calls: the caller lets time pass by ``tick``.

    Args:
        coordinator: The coordinator behind the endpoints.
        sdk: The phones' endpoints.
        admin: The operators' endpoints, under ``/admin/``.
        readiness: Stores the server's state.
        admin_token: The operators' bearer token.
        release: Releases the data folder.
    """

    def __init__(
        self,
        coordinator: Lifecycle,
        *,
        sdk: SdkEndpoints,
        admin: OperatorEndpoints,
        readiness: Readiness,
        admin_token: str,
        release: Callable[[], None],
    ) -> None:
        self.admin_token = admin_token
        self._coordinator = coordinator
        self._sdk = sdk
        self._admin = admin
        self._readiness = readiness
        self._release = release

    async def send(self, request: Request) -> Response:
        """Return the response to one request; the first one starts the server."""
        await self._start()
        endpoints = self._admin if request.path.startswith("/admin/") else self._sdk
        return await endpoints.send(request)

    async def tick(self) -> None:
        """Run one pass over everything that is due."""
        await self._start()
        await self._coordinator.tick()

    async def close(self) -> None:
        """Flush, stop, and release the data folder; a second call does nothing more."""
        if self._readiness.state is ServerState.READY:
            self._readiness.state = ServerState.STOPPING
            await self._coordinator.stop()
        self._release()

    async def _start(self) -> None:
        if self._readiness.state is ServerState.STARTING:
            await self._coordinator.start()
            self._readiness.state = ServerState.READY

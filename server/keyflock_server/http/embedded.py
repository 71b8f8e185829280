"""The same endpoints without sockets: a simulation sends requests by function call, on its own clock."""

from collections.abc import Callable

from keyflock_server.http.admin import AdminEndpoints
from keyflock_server.http.lifecycles import Lifecycle
from keyflock_server.http.readiness import Readiness, Stage
from keyflock_server.http.sdk import SdkEndpoints
from keyflock_server.protocol.calls import Request, Response


class EmbeddedServer:
    """A server inside its caller's event loop: a ``calls.Exchange`` for both planes.

    Nothing happens between calls: the caller says when time has passed, by ``tick``.

    Args:
        coordinator: What the endpoints are a door to.
        sdk: The phones' endpoints.
        admin: The operators', under ``/admin/``.
        readiness: Told of every stage.
        admin_token: Opens the operators' endpoints.
        release: Lets go of the data folder.
    """

    def __init__(
        self,
        coordinator: Lifecycle,
        *,
        sdk: SdkEndpoints,
        admin: AdminEndpoints,
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
        """The answer to one request; the first one starts the server."""
        await self._start()
        plane = self._admin if request.path.startswith("/admin/") else self._sdk
        return await plane.send(request)

    async def tick(self) -> None:
        """Let the server do what has become due."""
        await self._start()
        await self._coordinator.tick()

    async def close(self) -> None:
        """Flush, stop, and let go of the data folder; closing twice is once."""
        if self._readiness.stage is Stage.READY:
            self._readiness.stage = Stage.STOPPING
            await self._coordinator.stop()
        self._release()

    async def _start(self) -> None:
        if self._readiness.stage is Stage.STARTING:
            await self._coordinator.start()
            self._readiness.stage = Stage.READY

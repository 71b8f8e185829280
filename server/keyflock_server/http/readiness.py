"""Says whether this server takes work now: probes report it, and every call is checked against it."""

from enum import StrEnum

from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ApiError, ProblemCode


class ServerState(StrEnum):
    """The states of a server process."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


class Readiness:
    """The server's state, shared by its endpoint groups and probes."""

    def __init__(self) -> None:
        self.state = ServerState.STARTING

    def require(self) -> None:
        """Return if the server takes work, else raise.

        Raises:
            ApiError: fault of the server; ``not_ready``.
        """
        if self.state is not ServerState.READY:
            raise ApiError(
                ProblemCode.NOT_READY, f"The server is {self.state}.", ReturnWindow(min_s=2.0, max_s=10.0)
            )

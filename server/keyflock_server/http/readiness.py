"""Whether this server takes work now: a load balancer asks, and every call is checked against it."""

from enum import StrEnum

from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ProblemCode, Refused


class Stage(StrEnum):
    """Where in its life a server is."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


class Readiness:
    """The server's stage, shared by its planes and probes."""

    def __init__(self) -> None:
        self.stage = Stage.STARTING

    def require(self) -> None:
        """Return when the server takes work.

        Raises:
            Refused: fault of the server; ``not_ready``.
        """
        if self.stage is not Stage.READY:
            raise Refused(
                ProblemCode.NOT_READY, f"The server is {self.stage}.", ReturnWindow(min_s=2.0, max_s=10.0)
            )

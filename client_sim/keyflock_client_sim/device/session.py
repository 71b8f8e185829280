"""A session is one assignment on one device, from check-in to receipt."""

from dataclasses import dataclass
from typing import Final

from keyflock_client_sim.device.input_events import Trained
from keyflock_client_sim.device.wanted_models import WantedModel
from keyflock_server.protocol.messages import Assignment

#: The maximum length of a session shape in a message.
MAX_SHAPE: Final = 32

ASSIGNED: Final = "-"
HAS_MODEL: Final = "v"
TRAINING: Final = "["
TRAINED: Final = "]"
UPLOADING: Final = "+"
ACKED: Final = "^"
REJECTED: Final = "#"
ERROR: Final = "*"
INTERRUPTED: Final = "!"


@dataclass(slots=True)
class Session:
    """The state of the assignment that a device is busy with."""

    assignment: Assignment
    expires_at_s: float
    #: The session's steps, a character each; see the constants above.
    #: Source: Bonawitz et al. 2019, arXiv:1902.01046, Table 1.
    shape: str = ASSIGNED
    trained: Trained | None = None
    #: Why the assignment is returned; empty while it is not.
    cause: str = ""
    #: The model that is being downloaded; None once the phone has all that it needs.
    downloading: WantedModel | None = None
    #: The number of downloads that were not the model that they should be.
    damaged_downloads: int = 0

    def append_step(self, step: str) -> None:
        """Append a step; one that a message has no room for is left out."""
        self.shape = (self.shape + step)[:MAX_SHAPE]

    def wanted_model(self) -> WantedModel:
        """Return the model that is being downloaded; call it only while one is."""
        if self.downloading is None:
            raise AssertionError("asked for a download while there is none")
        return self.downloading

    def result(self) -> Trained:
        """Return the result of training; call it only once training is done."""
        if self.trained is None:
            raise AssertionError("asked for a result before there was one")
        return self.trained

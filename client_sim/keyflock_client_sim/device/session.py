"""One assignment on one device, from check-in to receipt."""

from dataclasses import dataclass
from typing import Final

from keyflock_client_sim.device.events import Trained
from keyflock_server.protocol.messages import Assignment

#: The most that a message carries.
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
    """What a device remembers of the assignment that it is busy with."""

    assignment: Assignment
    expires_at_s: float
    #: A character a step, see the constants above.
    #: Source: Bonawitz et al. 2019, arXiv:1902.01046, Table 1.
    shape: str = ASSIGNED
    trained: Trained | None = None
    #: Why it is given back; empty while it is not.
    cause: str = ""
    #: Downloads of the model that were not what the assignment names.
    damaged_downloads: int = 0

    def note(self, step: str) -> None:
        """Appends a step; one that a message has no room for is left out."""
        self.shape = (self.shape + step)[:MAX_SHAPE]

    def result(self) -> Trained:
        """What training gave; asked for only once it is done."""
        if self.trained is None:
            raise AssertionError("asked for a result before there was one")
        return self.trained

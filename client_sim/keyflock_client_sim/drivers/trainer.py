"""A trainer trains for the phones, and stores the models that they download."""

from typing import Protocol

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.input_events import Trained
from keyflock_server.protocol.messages import FailureCause


class TrainingError(RuntimeError):
    """A phone's training failed; the fleet goes on.

    Args:
        cause: The cause that the phone reports to the server.
        detail: An explanation for the user of the simulation.
    """

    def __init__(self, cause: FailureCause, detail: str = "") -> None:
        super().__init__(detail or cause)
        self.cause = cause


class Trainer(Protocol):
    """Trains on a phone's own text, which nothing else sees."""

    def store(self, digest: bytes, body: bytes) -> None:
        """Store a model that a phone has downloaded; the same one again is no work."""
        ...

    async def train(self, phone: str, work: Train) -> Trained:
        """Return the delta of this phone's local training.

        Guarantees:
            The same phone and the same work give the same delta, unless the codec has error feedback: then it
            also contains what the phone's last report lost.
        Raises:
            TrainingError: there will be no delta.
        """
        ...

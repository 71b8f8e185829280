"""These are the inputs of a device: the results of its effects, and interruptions."""

from dataclasses import dataclass

from keyflock_client_sim.device.installation import DeviceStatus
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.messages import FailureCause


@dataclass(frozen=True, slots=True)
class Woke:
    """The time that was asked for has come (or is past)."""

    status: DeviceStatus


@dataclass(frozen=True, slots=True)
class Answered:
    """The call was answered, whatever the answer says."""

    response: Response


@dataclass(frozen=True, slots=True)
class CallLost:
    """No answer will come. The server may or may not have acted on the call."""


@dataclass(frozen=True, slots=True)
class ModelStored:
    """The model is stored, and can be found by its digest."""


@dataclass(frozen=True, slots=True)
class PatchFailed:
    """The delta does not lead from the base to the model, and nothing was stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Training and encoding are done."""

    #: The delta as a compression container.
    delta: bytes
    #: The number of sequences trained on.
    examples: int
    #: Losses in nats a token; not finite or None when not measured.
    loss_before: float | None = None
    loss_after: float | None = None
    #: Seconds of training.
    train_s: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingFailed:
    """Training failed: there will be no delta."""

    cause: FailureCause = FailureCause.TRAINING_FAILED


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The system took the phone's time away: its person came back, or the process was killed.

    The effect will have no other result. The event comes when the device has time again, perhaps much later.
    """


InputEvent = Woke | Answered | CallLost | ModelStored | PatchFailed | Trained | TrainingFailed | Interrupted

"""The options of a demo; wrong ones are refused before anything starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyflock_client_sim.corpora.sources import SHAKESPEARE
from keyflock_client_sim.corpora.splits import HeldOutBy

#: ``--pretrain``: pre-train on the public part of the corpus itself.
BUILTIN: Final = "builtin"
#: ``--pretrain``: version 0 knows word frequencies only.
NONE: Final = "none"
CHECKPOINT_SUFFIX: Final = ".safetensors"
MIN_GOAL: Final = 4


class DemoError(Exception):
    """The demo cannot be run as asked; the message is one line and says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The options of one demo."""

    #: ``shakespeare``, or a ``.jsonl(.gz)`` file of users and their messages.
    data: str = SHAKESPEARE
    #: ``builtin``, ``none``, a text corpus to pre-train on, or a checkpoint to start from.
    pretrain: str = BUILTIN
    devices: int = 200
    rounds: int = 40
    #: Whether single phones or whole users are held out for evaluation.
    held_out: HeldOutBy = "phone"
    #: Reports that close a round.
    goal: int = 24
    seed: int = 0
    #: The name of a model size; it has no meaning when ``pretrain`` is a checkpoint.
    size: str = "medium"
    #: The folder that stores everything; None: a temporary folder.
    keep: Path | None = None
    #: The time limit of pre-training.
    pretrain_s: float = 60.0
    #: Rounds end here at the latest, counted from the start of the demo; None: all are played.
    limit_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse options that cannot work."""
        if self.rounds < 1:
            raise DemoError("--rounds must be at least 1.")
        if self.goal < MIN_GOAL:
            raise DemoError(
                f"--goal must be at least {MIN_GOAL}: fewer reports than that are never written together."
            )
        if self.devices < 2 * self.goal:
            raise DemoError(
                f"--devices {self.devices} is too few for --goal {self.goal}: phones drop out and others "
                "take their place, so there must be at least twice as many."
            )

    @property
    def starts_from_checkpoint(self) -> bool:
        """Return whether version 0 is given."""
        return self.pretrain.endswith(CHECKPOINT_SUFFIX)

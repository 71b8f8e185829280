"""A pre-training spec says what is to be trained: on which text, how large, how long, from which seed."""

import hashlib
from dataclasses import asdict, dataclass, field
from importlib.metadata import version as distribution_version
from typing import Final

import msgspec

from keyflock_client_sim.corpora import text
from keyflock_client_sim.corpora.text import UserText
from keyflock_models.network.anchor import MAX_ANCHOR_ROWS
from keyflock_models.network.config import ModelConfig
from keyflock_models.training.pretraining import PretrainingConfig

#: Chosen by measurement with 256 units and a third of the plays (280,000 words), recall@1 on other plays: a
#: candidate softmax reaches in 49 s on one core what the full softmax does not in 65 (10.2 against 9.5 %).
DEFAULT_PLAN: Final = PretrainingConfig(learning_rate=3e-3, batch_size=32, candidates=1_000)
#: On the same text, ten epochs are a point worse than five: the model learns the plays by heart.
DEFAULT_EPOCHS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingSpec:
    """Everything that decides the checkpoint, apart from the machine's speed.

    Raises:
        ValueError: Neither an end in time nor one in epochs, or one that is not above zero.
    """

    #: The name of the text, for the checkpoint's lineage.
    corpus: str
    users: tuple[UserText, ...]
    config: ModelConfig
    plan: PretrainingConfig = field(default=DEFAULT_PLAN)
    #: The language of the public word list.
    language: str = "en"
    seed: int = 0
    #: Training ends after this much time; the learning rate falls with the time. None: no limit.
    seconds: float | None = None
    #: Training ends after so many passes over the text; None: no limit.
    epochs: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is None and self.epochs is None:
            raise ValueError("pre-training needs an end: seconds, epochs or both")
        if not all(end is None or end > 0 for end in (self.seconds, self.epochs)):
            raise ValueError("seconds and epochs are above zero")

    @property
    def key(self) -> str:
        """Return 64 hex digits that two specs share only if they are equal, in the same release."""
        content = {
            "release": distribution_version("keyflock"),
            "text": text.digest(self.users),
            "config": self.config.to_dict(),
            "plan": asdict(self.plan),
            "language": self.language,
            "seed": self.seed,
            "seconds": self.seconds,
            "epochs": self.epochs,
            "anchor_rows": MAX_ANCHOR_ROWS,
        }
        return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()

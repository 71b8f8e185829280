"""The options of ``keyflock-sim drift``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Ways in which the trunk moves: real rounds in virtual time, or random steps, which cost nothing.
FEDERATED: Final = "federated"
SYNTHETIC: Final = "synthetic"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftOptions:
    """The command's options; its help explains them."""

    data: str = "shakespeare"
    #: A checkpoint, or "train": version 0 is trained on a third of the other users first.
    model: str = "train"
    by: str = FEDERATED
    versions: int = 50
    goal: int = 20
    #: The norm of a synthetic step, relative to each tensor's norm.
    step_ratio: float = 0.03
    refit_every: int = 10
    users: int = 24
    min_words: int = 500
    max_words: int = 1_500
    seed: int = 0
    size: str = "small"
    picture: Path | None = None

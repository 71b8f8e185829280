"""What ``keyflock-sim personalise`` was asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Instead of a checkpoint: train one first.
TRAIN: Final = "train"


class PersonaliseError(RuntimeError):
    """The measurement cannot be made as asked; the message says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonaliseOptions:
    """See the command's help."""

    data: str = "shakespeare"
    model: str = TRAIN
    pretrain: str = "builtin"
    rounds: int = 40
    users: int = 200
    min_words: int = 100
    max_words: int = 6_000
    compare_heads: bool = False
    shuffled: bool = False
    seed: int = 0
    size: str = "medium"
    picture: Path | None = None

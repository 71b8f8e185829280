"""The options of ``keyflock-sim personalise``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: The value of ``--model`` that trains a checkpoint first.
TRAIN: Final = "train"


class PersonaliseError(RuntimeError):
    """The measurement cannot be made as asked; the message says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonaliseOptions:
    """The command's options; its help explains them."""

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

"""The predictions of a network for a batch of contexts, and the shapes that batches are padded to."""

from dataclasses import dataclass
from typing import Final

from keyflock_models.arrays import F32

#: Batch sizes and context lengths that are compiled.
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
CONTEXT_LENGTHS: Final = (5, 10, 20)
#: Words per block.
BLOCK_WORDS: Final = 128


@dataclass(frozen=True, slots=True, eq=False)
class TrunkPredictions:
    """The network's predictions for a batch of contexts."""

    #: Probabilities of all words. Shape (B, V).
    probabilities: F32
    #: The largest probability of the words of each block that may be shown; below 0 where there is none.
    #: Shape (B, blocks).
    best_of_block: F32

"""Minibatches of many sequences, packed without gaps, shuffled by a seed and addressed by their number."""

import numpy as np

from keyflock_models.arrays import I32, I64
from keyflock_models.text.special_tokens import PAD


def pack(sequences: I32) -> I32:
    """Pack several short messages into a row, so that central training spends less time on PAD.

    A message never crosses a row's end. The network sees each BOS and learns that the text before it is
    another message. BOS itself is no target (see `make_batches`).

    Args:
        sequences: Rows of `encode_messages`, shape (N, L + 1).
    Returns:
        Shape (M, L + 1), M <= N: the same rows without their PAD, put together first-fit by falling length.
    """
    width = sequences.shape[1]
    used = (sequences != PAD).sum(axis=1)
    # Rows of each length that wait to be placed; every packed row takes the longest that still fits.
    waiting = [list(np.flatnonzero(used == size)) for size in range(width + 1)]
    packed = []
    for size in range(width, 0, -1):
        while waiting[size]:
            row = np.full(width, PAD, np.int32)
            end, next_size = 0, size
            while next_size > 0:
                if waiting[next_size]:
                    row[end : end + next_size] = sequences[waiting[next_size].pop(), :next_size]
                    end += next_size
                    next_size = min(next_size, width - end)
                else:
                    next_size -= 1
            packed.append(row)
    return np.stack(packed) if packed else sequences[:0]


class Minibatches:
    """An endless series of batches, epoch after epoch, with each sequence at most once per epoch.

    Guarantees:
        `batch(i)` depends on the constructor's arguments and i alone, so training goes on after a restart as
        if there had been none.
    Raises:
        ValueError: fewer sequences than one batch.
    """

    def __init__(self, sequences: I32, *, batch_size: int, seed: int) -> None:
        if not 1 <= batch_size <= len(sequences):
            msg = f"{len(sequences)} sequences do not fill a batch of {batch_size}"
            raise ValueError(msg)
        self._sequences, self._batch_size, self._seed = sequences, batch_size, seed
        self._epoch = -1
        self._order: I64 = np.zeros(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch; a last partial batch, another in each epoch, is left out."""
        return len(self._sequences) // self._batch_size

    def batch(self, step: int) -> I32:
        """Return the batch of this number. Shape (B, L + 1)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng((self._seed, epoch))
            self._epoch, self._order = epoch, rng.permutation(len(self._sequences))
        return self._sequences[self._order[index * self._batch_size : (index + 1) * self._batch_size]]

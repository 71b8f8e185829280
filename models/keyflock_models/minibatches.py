"""Batches of a large body of sequences, shuffled by a seed and found by their number."""

import numpy as np

from keyflock_models.arrays import I32, I64
from keyflock_models.special_tokens import PAD

#: Batches within which rows are put in the order of their length before they are dealt out.
_SORTED_TOGETHER = 50
#: Batches are cut to the next multiple of this many inputs.
_LENGTH_STEP = 4


class Minibatches:
    """An endless row of batches: epoch after epoch, each row of the sequences once an epoch.

    Rows of like length come together, so that short messages are not trained at the length of long ones.

    Guarantees:
        `at(i)` depends on the constructor's arguments and i alone, so training goes on after a restart as if
        there had been none.
    Raises:
        ValueError: fewer sequences than one batch.
    """

    def __init__(self, sequences: I32, *, batch_size: int, seed: int) -> None:
        if len(sequences) < batch_size:
            msg = f"{len(sequences)} sequences do not fill a batch of {batch_size}"
            raise ValueError(msg)
        self._sequences, self._batch_size, self._seed = sequences, batch_size, seed
        self._used = ((sequences[:, 1:] != PAD) * np.arange(1, sequences.shape[1])).max(axis=1)
        self._epoch = -1
        self._order: I64 = np.zeros(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch. A last partial batch is left out; who is in it differs from epoch to epoch."""
        return len(self._sequences) // self._batch_size

    def at(self, step: int) -> I32:
        """The batch of this number, shape (B, L' + 1) with L' no longer than its rows need."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._ordered(np.random.default_rng((self._seed, epoch)))
        rows = self._order[place * self._batch_size : (place + 1) * self._batch_size]
        length = -(-int(self._used[rows].max()) // _LENGTH_STEP) * _LENGTH_STEP
        return self._sequences[rows, : length + 1]

    def _ordered(self, rng: np.random.Generator) -> I64:
        shuffled = rng.permutation(len(self._sequences))[: self.steps_per_epoch * self._batch_size]
        window = _SORTED_TOGETHER * self._batch_size
        batches = []
        for start in range(0, len(shuffled), window):
            rows = shuffled[start : start + window]
            by_length = rows[np.argsort(self._used[rows], kind="stable")].reshape(-1, self._batch_size)
            batches.append(by_length[rng.permutation(len(by_length))])
        return np.concatenate(batches).reshape(-1)

"""Model bodies that all workers share: written once by the pool, decoded once by each worker.

Thirty phones of a round train from the same 1.4 MB, so it is not sent with every job.
"""

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Final, NewType

import numpy as np
import numpy.typing as npt

from keyflock_compression import Layout, decode_weights

#: SHA-256 (hex) of a model's bytes as they are downloaded: the name it has on the shelf.
ModelDigest = NewType("ModelDigest", str)

#: Decoded models kept in a worker: the round's, the one before for stragglers, and one under evaluation.
KEPT_MODELS: Final = 3


class UnknownModelError(LookupError):
    """No model of this digest is on the shelf; publish it before the job that needs it."""


class ModelShelf:
    """A folder of model bodies by digest, with the last few decoded ones in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._decoded: OrderedDict[ModelDigest, npt.NDArray[np.float32]] = OrderedDict()

    def publish(self, body: bytes) -> ModelDigest:
        """Puts a model's bytes on the shelf; the same bytes again are no work.

        Guarantees:
            A reader sees the whole body or none of it.
        """
        digest = ModelDigest(hashlib.sha256(body).hexdigest())
        if not self.holds(digest):
            partial = self._folder / f"{digest}.partial"
            partial.write_bytes(body)
            partial.replace(self._folder / digest)
        return digest

    def holds(self, digest: ModelDigest) -> bool:
        """Whether a model of this digest has been published."""
        return (self._folder / digest).is_file()

    def weights(self, digest: ModelDigest, layout: Layout) -> npt.NDArray[np.float32]:
        """The model's parameters, shape (P,), float32, read-only because jobs share them.

        Raises:
            UnknownModelError: Nothing of this digest was published.
            CodecError: The bytes are no model of this layout.
        """
        if digest not in self._decoded:
            if not self.holds(digest):
                raise UnknownModelError(f"no model {digest[:12]} on the shelf")
            vector = decode_weights((self._folder / digest).read_bytes(), layout)
            vector.flags.writeable = False
            self._decoded[digest] = vector
            while len(self._decoded) > KEPT_MODELS:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(digest)
        return self._decoded[digest]

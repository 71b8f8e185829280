"""All workers share a folder of model bodies: the pool writes each once, and each worker decodes it once.

Thirty phones of a round train from the same 1.4 MB, so it is not sent with every job.
"""

import hashlib
from pathlib import Path
from typing import Final, NewType

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from keyflock_compression import Layout, decode_weights

#: SHA-256 (hex) of a model's bytes as they are downloaded: its name in the folder.
ModelDigest = NewType("ModelDigest", str)

#: A worker caches so many decoded models: the round's, the one before for stragglers, and one to evaluate.
MAX_DECODED_MODELS: Final = 3


class UnknownModelError(LookupError):
    """No model of this digest is in the folder; publish it before the job that needs it."""


class ModelFolder:
    """A folder of model bodies by digest, with the last few decoded ones in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._decoded: LRUCache[ModelDigest, npt.NDArray[np.float32]] = LRUCache(MAX_DECODED_MODELS)

    def publish(self, body: bytes) -> ModelDigest:
        """Write a model's bytes to the folder; the same bytes again are no work.

        Guarantees:
            A reader sees the whole body or none of it.
        """
        digest = ModelDigest(hashlib.sha256(body).hexdigest())
        if not self.has(digest):
            partial = self._folder / f"{digest}.partial"
            partial.write_bytes(body)
            partial.replace(self._folder / digest)
        return digest

    def has(self, digest: ModelDigest) -> bool:
        """Return whether a model of this digest has been published."""
        return (self._folder / digest).is_file()

    def weights(self, digest: ModelDigest, layout: Layout) -> npt.NDArray[np.float32]:
        """Return the model's parameters, shape (P,), float32, read-only because jobs share them.

        Raises:
            UnknownModelError: Nothing of this digest was published.
            CodecError: The bytes are no model of this layout.
        """
        if digest not in self._decoded:
            if not self.has(digest):
                raise UnknownModelError(f"no model {digest[:12]} on the shelf")
            vector = decode_weights((self._folder / digest).read_bytes(), layout)
            vector.flags.writeable = False
            self._decoded[digest] = vector
        return self._decoded[digest]

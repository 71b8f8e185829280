"""What tells two reports apart: a digest of the numbers, whatever bytes they were sent in."""

import hashlib

import numpy as np

from keyflock_compression import DecodedUpdate


def content_digest(update: DecodedUpdate) -> bytes:
    """Return the SHA-256 of the values that are not zero and of their places.

    Guarantees:
        Equal vectors have equal digests, whichever codec they came in and however they were compressed.
    """
    places, values = update.entries()
    kept = np.flatnonzero(values)
    values = values[kept]
    if places is not None:
        order = np.argsort(places[kept], kind="stable")
        kept, values = places[kept][order], values[order]
    hasher = hashlib.sha256(kept.astype(np.int32).data)
    hasher.update(values.data)
    return hasher.digest()

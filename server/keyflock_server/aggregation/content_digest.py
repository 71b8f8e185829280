"""The content digest of a report, by which repeated reports are found: it does not depend on the encoding."""

import hashlib

import numpy as np

from keyflock_compression import DecodedUpdate


def content_digest(update: DecodedUpdate) -> bytes:
    """Return the SHA-256 of the nonzero values and of their positions.

    Guarantees:
        Equal vectors have equal digests, whatever their codec and compression.
    """
    positions, values = update.entries()
    nonzero = np.flatnonzero(values)
    values = values[nonzero]
    if positions is not None:
        order = np.argsort(positions[nonzero], kind="stable")
        nonzero, values = positions[nonzero][order], values[order]
    hasher = hashlib.sha256(nonzero.astype(np.int32).data)
    hasher.update(values.data)
    return hasher.digest()

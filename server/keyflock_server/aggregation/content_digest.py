"""The content digest of a report, by which repeated reports are found: it does not depend on the encoding.

Each nonzero value and its position make a keyed number, and the digest is the sum of these numbers' squares:
a sum does not depend on the order, so nothing is sorted. Sorting and a cryptographic digest took longer than
everything else that is done to a report.

The key is drawn when the process starts, and neither it nor a digest ever leaves the process. That is no
defence against someone who makes deltas for it: whoever exchanges denormal values among positions of equal
sums gets one digest for two deltas under most keys. Such a pair is of no use: both are taken for copies of
one delta, so that they count for less, and a phone can send a copy as it is.

Source: Clarke et al. 2003, doi:10.1007/978-3-540-40061-5_12 (sums of keyed hashes as hashes of sets).
"""

import secrets
from typing import Final

import numpy as np

from keyflock_compression import DecodedUpdate

#: An odd number, so that different positions stay different.
_KEY: Final = np.uint32(secrets.randbits(32) | 1)


def content_digest(update: DecodedUpdate) -> bytes:
    """Return 16 bytes that tell the vectors of one process apart.

    Guarantees:
        Equal vectors have equal digests, whatever their codec and compression. Different ones that were not
        made to have one digest have different ones but for a chance of about 2**-31.
    """
    positions, values = update.entries()
    is_zero = values == 0
    if positions is None:
        positions = np.flatnonzero(~is_zero)
        values = values[positions]
    elif is_zero.any():
        positions, values = positions[~is_zero], values[~is_zero]
    mixed = positions.astype(np.uint32)
    mixed *= _KEY
    mixed ^= values.view(np.uint32)
    wide = mixed.astype(np.uint64)
    total = int(np.einsum("i,i->", wide, wide))
    return total.to_bytes(8, "little") + values.size.to_bytes(8, "little")

"""Which devices get a candidate: each has one bucket for ever, and a stage is all buckets below a number.

A device's bucket depends on the population and on the device alone, so that restarts, replicas and further
candidates draw nobody anew, and a wider stage has every device of a narrower one.
"""

import hashlib
from typing import Final

from keyflock_server.protocol.identifiers import PopulationName

#: Number of buckets: a hundred for each percent.
BUCKETS: Final = 10_000
_BUCKETS_A_PERCENT: Final = BUCKETS // 100
_PERSON: Final = b"keyflock.stage"
#: Longer keys than this are digested first; ids may be longer.
_MAX_KEY_BYTES: Final = hashlib.blake2b.MAX_KEY_SIZE


def bucket_of(population: PopulationName, identity: str) -> int:
    """Return the bucket of a device, from 0 to ``BUCKETS`` - 1.

    Args:
        population: The population's id, which is never used for another one.
        identity: What stays the same of the device: the digest of its attested installation, or its id.
    Guarantees:
        The result never changes: it depends on no key, setting or process. Buckets of different devices, and
        of one device in different populations, are independent and uniform up to a part in 2^50.
    """
    key = population.encode()
    key = key if len(key) <= _MAX_KEY_BYTES else hashlib.blake2b(key).digest()
    digest = hashlib.blake2b(identity.encode(), digest_size=8, key=key, person=_PERSON).digest()
    return int.from_bytes(digest) % BUCKETS


def is_in_stage(bucket: int, percent: int) -> bool:
    """Return whether a stage of so many percent has this bucket: 0 has none, 100 all."""
    return bucket < percent * _BUCKETS_A_PERCENT

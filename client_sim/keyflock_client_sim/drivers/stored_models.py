"""The models that a fleet's phones have stored: each model's bytes once, however many phones have it.

A phone's device knows the digests only; the bytes are here. A delta that many phones get is applied once.
"""

import hashlib
from typing import Final

from cachetools import FIFOCache, LRUCache

from keyflock_client_sim.device.effects import PatchModel, StoreModel
from keyflock_client_sim.device.input_events import ModelStored, PatchFailed
from keyflock_client_sim.drivers.trainer import Trainer
from keyflock_compression import CodecError, apply_weights_delta

#: The number of bodies in memory. A phone whose model is no longer among them downloads the whole one.
MAX_BODIES: Final = 24


class StoredModels:
    """Carries out ``StoreModel`` and ``PatchModel``.

    Args:
        trainer: Gets every model that a phone has now.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._bodies: LRUCache[bytes, bytes] = LRUCache(MAX_BODIES)
        #: Digests over base, result and delta of the patches that were applied.
        self._applied: FIFOCache[bytes, None] = FIFOCache(MAX_BODIES)

    def store(self, effect: StoreModel) -> ModelStored:
        """Store a download."""
        return self._store_body(effect.digest, effect.body)

    def patch(self, effect: PatchModel) -> ModelStored | PatchFailed:
        """Apply the delta to the base, and store the result if it has the promised content."""
        base = self._bodies.get(effect.base)
        if base is None:
            return PatchFailed()
        case = hashlib.sha256(effect.base + effect.content_digest + effect.delta).digest()
        made = self._bodies.get(effect.digest) if case in self._applied else None
        if made is None:
            try:
                made = apply_weights_delta(effect.delta, base, result=effect.content_digest)
            except CodecError:
                return PatchFailed()
            self._applied[case] = None
        return self._store_body(effect.digest, made)

    def _store_body(self, digest: bytes, body: bytes) -> ModelStored:
        self._bodies[digest] = body
        self._trainer.store(digest, body)
        return ModelStored()

"""What a fleet's phones have stored: each model's bytes once, however many phones have it.

A phone's device knows what it has; here is what that is. A delta that many phones get is worked out once.
"""

import hashlib
from collections import OrderedDict
from typing import Final

from keyflock_client_sim.device.effects import Patch, Store
from keyflock_client_sim.device.events import PatchFailed, Stored
from keyflock_client_sim.drivers.trainer import Trainer
from keyflock_compression import CodecError, apply_weights_delta

#: Bodies in memory. A phone whose model is none of them any more downloads the whole.
KEPT_BODIES: Final = 24


class StoredModels:
    """Carries out ``Store`` and ``Patch``.

    Args:
        trainer: Is given every model that a phone has now.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._bodies: OrderedDict[bytes, bytes] = OrderedDict()
        #: Base, result and delta that were seen to fit, as one digest.
        self._applied: OrderedDict[bytes, None] = OrderedDict()

    def store(self, effect: Store) -> Stored:
        """Keeps a download."""
        return self._keep(effect.digest, effect.body)

    def patch(self, effect: Patch) -> Stored | PatchFailed:
        """Keeps what the delta makes of the base, if it makes what it must."""
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
            while len(self._applied) > KEPT_BODIES:
                self._applied.popitem(last=False)
        return self._keep(effect.digest, made)

    def _keep(self, digest: bytes, body: bytes) -> Stored:
        self._bodies.setdefault(digest, body)
        self._bodies.move_to_end(digest)
        while len(self._bodies) > KEPT_BODIES:
            self._bodies.popitem(last=False)
        self._trainer.store(digest, body)
        return Stored()

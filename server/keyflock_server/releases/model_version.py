"""A version of the global model: an integer, where it came from, and what phones download."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from keyflock_compression import Layout, encode_weights
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId
from keyflock_server.protocol.messages import ModelWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """What is known of a version."""

    population: PopulationName
    version: ModelVersion
    #: None for version 0.
    parent: ModelVersion | None
    #: The round that made it; None for version 0.
    round_id: RoundId | None
    created_at: datetime
    #: SHA-256 of the download.
    download_digest: bytes
    download_bytes: int
    #: Where the download lies in the blob store.
    download_key: str
    #: Where the float32 master checkpoint lies.
    checkpoint_key: str
    #: What keyboards download of it, where that is not what phones train from: the versions' average.
    released_digest: bytes | None = None
    released_bytes: int | None = None
    released_key: str | None = None
    #: Mean loss on the population's anchor text, nats a word; None where there is none.
    anchor_loss: float | None = None
    #: When a rollback took it back; None: it is served.
    withdrawn_at: datetime | None = None
    #: Why it is there, where no round made it.
    note: str = ""

    @property
    def blob_keys(self) -> tuple[str, ...]:
        """All keys that this row points to."""
        keys = (self.download_key, self.checkpoint_key, self.released_key)
        return tuple(key for key in keys if key is not None)

    def key_of(self, weights: ModelWeights) -> str:
        """Where the download of these weights lies: what phones train from, where no average is kept."""
        is_average = weights is ModelWeights.RELEASED and self.released_digest is not None
        return (self.released_key if is_average else None) or self.download_key

    def digest_of(self, weights: ModelWeights) -> bytes:
        """SHA-256 of the same."""
        is_average = weights is ModelWeights.RELEASED and self.released_key is not None
        return (self.released_digest if is_average else None) or self.download_digest


@dataclass(frozen=True, slots=True)
class Download:
    """The bytes that phones get for a version."""

    body: bytes
    #: SHA-256 of the body.
    digest: bytes


def download_digest(body: bytes) -> bytes:
    """What identifies a download on the wire: its SHA-256."""
    return hashlib.sha256(body).digest()


def package(weights: NDArray[np.float32], layout: Layout) -> Download:
    """The download of these master weights: int8 rows, about a byte a parameter; deterministic.

    Args:
        weights: Shape (P,), float32.
        layout: What they mean.
    """
    body = encode_weights(weights, layout)
    return Download(body, download_digest(body))

"""A version of the global model: its number, its origin, and its download."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from keyflock_compression import Layout, encode_weights
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId
from keyflock_server.protocol.plans import ModelWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """A model version's row."""

    population: PopulationName
    version: ModelVersion
    #: None for version 0.
    parent: ModelVersion | None
    #: The round that made the version; None for version 0.
    round_id: RoundId | None
    created_at: datetime
    #: SHA-256 of the download.
    download_digest: bytes
    download_bytes: int
    #: The blob key of the download.
    download_key: str
    #: The blob key of the float32 master checkpoint.
    checkpoint_key: str
    #: The download for keyboards, where it is the versions' average and not what phones train from.
    released_digest: bytes | None = None
    released_bytes: int | None = None
    released_key: str | None = None
    #: Mean loss on the population's anchor text, nats a word; None without such a text.
    anchor_loss: float | None = None
    #: When a rollback withdrew it; None if it is served.
    withdrawn_at: datetime | None = None
    #: Its origin, where no round made it.
    note: str = ""
    #: When an operator pinned it, so that it is never pruned; None if it is not pinned.
    pinned_at: datetime | None = None

    @property
    def blob_keys(self) -> tuple[str, ...]:
        """Return all blob keys of this row."""
        keys = (self.download_key, self.checkpoint_key, self.released_key)
        return tuple(key for key in keys if key is not None)

    def key_of(self, weights: ModelWeights) -> str:
        """Return the blob key of these weights' download; the trained weights' where there is no average."""
        is_average = weights is ModelWeights.RELEASED and self.released_digest is not None
        return (self.released_key if is_average else None) or self.download_key

    def digest_of(self, weights: ModelWeights) -> bytes:
        """Return the SHA-256 of these weights' download."""
        is_average = weights is ModelWeights.RELEASED and self.released_key is not None
        return (self.released_digest if is_average else None) or self.download_digest

    def bytes_of(self, weights: ModelWeights) -> int:
        """Return the size of these weights' download."""
        is_average = weights is ModelWeights.RELEASED and self.released_key is not None
        return (self.released_bytes if is_average else None) or self.download_bytes


@dataclass(frozen=True, slots=True)
class Download:
    """The download of a version."""

    body: bytes
    #: SHA-256 of the body.
    digest: bytes


def download_digest(body: bytes) -> bytes:
    """Return the SHA-256 of a download, which identifies it on the wire."""
    return hashlib.sha256(body).digest()


def package(weights: NDArray[np.float32], layout: Layout) -> Download:
    """Return the download of master weights: int8 rows, about a byte a parameter; it is deterministic.

    Args:
        weights: The master weights, shape (P,), float32.
        layout: The layout of the weights.
    """
    body = encode_weights(weights, layout)
    return Download(body, download_digest(body))

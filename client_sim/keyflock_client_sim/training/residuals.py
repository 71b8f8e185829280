"""Residuals hold what phones' reports lost, one file a phone, for codecs with error feedback."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from keyflock_compression.feedback import Residual


class _StoredResidual(msgspec.Struct, frozen=True):
    container: bytes
    kept_at_s: float


@dataclass(frozen=True, slots=True)
class ResidualFile:
    """One phone's residual; it belongs to the worker that trains for the phone at the moment."""

    path: Path

    @classmethod
    def of(cls, folder: Path, phone: str) -> "ResidualFile":
        """Return the phone's file in an existing folder."""
        return cls(folder / hashlib.sha256(phone.encode()).hexdigest())

    def read(self) -> Residual | None:
        """Return the stored residual; None: nothing yet, or nothing that can be read."""
        try:
            stored = msgspec.msgpack.decode(self.path.read_bytes(), type=_StoredResidual)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return Residual(stored.container, stored.kept_at_s)

    def write(self, residual: Residual) -> None:
        """Replace the residual; a reader sees the whole of it or the one before."""
        partial = self.path.with_suffix(".partial")
        partial.write_bytes(msgspec.msgpack.encode(_StoredResidual(residual.container, residual.stored_at_s)))
        partial.replace(self.path)

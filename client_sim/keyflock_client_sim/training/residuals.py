"""What phones' reports lost, one file a phone, for codecs with error feedback."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from keyflock_compression.feedback import Residual


class _Kept(msgspec.Struct, frozen=True):
    container: bytes
    kept_at_s: float


@dataclass(frozen=True, slots=True)
class ResidualFile:
    """One phone's; it belongs to whichever worker trains for the phone at the moment."""

    path: Path

    @classmethod
    def of(cls, folder: Path, phone: str) -> "ResidualFile":
        """The phone's, in a folder that is there."""
        return cls(folder / hashlib.sha256(phone.encode()).hexdigest())

    def read(self) -> Residual | None:
        """What was kept; None: nothing yet, or nothing that can be read."""
        try:
            kept = msgspec.msgpack.decode(self.path.read_bytes(), type=_Kept)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return Residual(kept.container, kept.kept_at_s)

    def write(self, residual: Residual) -> None:
        """Keep this instead; a reader sees the whole of it or the one before."""
        partial = self.path.with_suffix(".partial")
        partial.write_bytes(msgspec.msgpack.encode(_Kept(residual.container, residual.kept_at_s)))
        partial.replace(self.path)

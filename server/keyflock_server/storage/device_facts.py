"""What the store alone knows of a device at a check-in, and what a check-in tells the store."""

from dataclasses import dataclass
from datetime import datetime

from keyflock_server.protocol.identifiers import DeviceId


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """The facts about a device that decide whether it gets a slot, and that its token does not know.

    The fields are those of ``DeviceRecord``.
    """

    device: DeviceId
    last_contributed_at: datetime | None = None
    quarantined_until: datetime | None = None
    silences: int = 0
    last_silent_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenDevice:
    """A device as it was at a check-in."""

    device: DeviceId
    app_build: int
    locale: str
    at: datetime

"""Return windows are remembered, so that a device that comes earlier is answered without any query.

The memory is this process's and bounded: a device that goes to another process, or that 65,536 others have
pushed out, is answered as if it had come in time. A device is forgotten once its window has come.
"""

from datetime import datetime
from typing import Final

import msgspec

from keyflock_server.coordinator.recent_entries import RecentEntries
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import Refusal, ReturnWindow

#: Number of devices that are remembered at least.
MAX_DEVICES: Final = 65_536
#: Tolerated drift of phones' clocks, and seconds by which their timers may fire early.
_DRIFT_RATIO: Final = 0.02
_TOLERANCE_S: Final = 1.0


class ReturnWindows:
    """Remembers the last refusal of each device.

    Args:
        max_devices: Number of devices that are remembered at least; never more than twice as many.
    """

    def __init__(self, max_devices: int = MAX_DEVICES) -> None:
        #: The refusals, when they were given, and the generation of the token that they depend on, if any.
        self._refusals: RecentEntries[tuple[Refusal, datetime, int | None]] = RecentEntries(max_devices)

    def __len__(self) -> int:
        return len(self._refusals)

    def remember(
        self, device: DeviceId, refusal: Refusal, now: datetime, generation: int | None = None
    ) -> None:
        """Remember that the device was told to stay away until the refusal's window comes.

        Args:
            device: The device.
            refusal: What it was told.
            now: The instant.
            generation: The generation of its token, if the refusal may depend on what the token says.
        """
        self._refusals.put(device, (refusal, now, generation))

    def repeated_refusal(self, device: DeviceId, now: datetime, generation: int) -> Refusal | None:
        """Return the refusal again with what is left of its window, for a device that comes before it.

        Args:
            device: The device.
            now: The instant.
            generation: The generation of the token that it shows.

        Edge cases:
            the clock was set back -> None: it is unknown how long ago the device was told
            the refusal depends on another token -> None: this one may say something else
        """
        stored = self._refusals.get(device)
        if stored is None:
            return None
        refusal, told_at, judged_generation = stored
        window = refusal.return_window
        passed_s = (now - told_at).total_seconds()
        is_of_other_token = judged_generation is not None and judged_generation != generation
        if (
            is_of_other_token
            or passed_s < 0.0
            or passed_s >= window.min_s * (1.0 - _DRIFT_RATIO) - _TOLERANCE_S
        ):
            self._refusals.pop(device)
            return None
        left = ReturnWindow(min_s=window.min_s - passed_s, max_s=window.max_s - passed_s)
        return msgspec.structs.replace(refusal, return_window=left)

    def forget(self, device: DeviceId) -> None:
        """Forget the device's refusal, so that it may come at any time."""
        self._refusals.pop(device)

    def clear(self) -> None:
        """Forget all refusals, which may not hold any more."""
        self._refusals.clear()

"""Who was told to come back when, so that whoever comes earlier is answered without a look at anything.

In this process and within bounds: a device that goes to another process, or that 65,536 others have pushed
out, is answered as if it had come in time. Nothing is kept of it when its window has come.
"""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import Refusal, ReturnWindow

#: Devices that are remembered; the window told longest ago goes first.
MAX_DEVICES: Final = 65_536
#: Phones' clocks run so much too fast, and timers fire so much too early.
_DRIFT_RATIO: Final = 0.02
_TOLERANCE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Told:
    refusal: Refusal
    at: datetime


class ReturnWindows:
    """Remembers what devices were told.

    Args:
        max_devices: How many are remembered.
    """

    def __init__(self, max_devices: int = MAX_DEVICES) -> None:
        self._max_devices = max_devices
        self._told: OrderedDict[DeviceId, _Told] = OrderedDict()

    def __len__(self) -> int:
        return len(self._told)

    def tell(self, device: DeviceId, refusal: Refusal, now: datetime) -> None:
        """Remember that the device was told to stay away until the refusal's window comes."""
        self._told.pop(device, None)
        self._told[device] = _Told(refusal, now)
        while len(self._told) > self._max_devices:
            self._told.popitem(last=False)

    def early(self, device: DeviceId, now: datetime) -> Refusal | None:
        """Return the refusal again with what is left of its window, for a device that comes before it.

        Edge cases:
            the clock was set back -> None: nobody knows how long ago the device was told
        """
        told = self._told.get(device)
        if told is None:
            return None
        window = told.refusal.return_window
        passed_s = (now - told.at).total_seconds()
        if passed_s < 0.0 or passed_s >= window.min_s * (1.0 - _DRIFT_RATIO) - _TOLERANCE_S:
            del self._told[device]
            return None
        left = ReturnWindow(min_s=window.min_s - passed_s, max_s=window.max_s - passed_s)
        return msgspec.structs.replace(told.refusal, return_window=left)

    def forget(self, device: DeviceId) -> None:
        """Let the device come whenever it wants."""
        self._told.pop(device, None)

    def clear(self) -> None:
        """Let everybody come: what they were told may not hold any more."""
        self._told.clear()

"""What keyboards were served, phone by phone, in the order in which they were."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from keyflock_client_sim.device.device_events import DeviceEnrolled
from keyflock_client_sim.device.keyboard import ServingKeyboard
from keyflock_client_sim.drivers.fleet_stats import FleetEvent
from keyflock_client_sim.fleet.phone import Phone
from keyflock_server.protocol.identifiers import DeviceId, ModelVersion


def with_keyboard(phone: Phone) -> Phone:
    """Return the same phone with a keyboard that follows the release."""
    return replace(phone, keyboard=ServingKeyboard(phone.device.installation.population))


@dataclass
class ServedVersions:
    """Watches the keyboards of a fleet; a fleet calls ``record`` with each of its events."""

    phones: Sequence[Phone]
    #: The versions that each phone's keyboard has served, in their order.
    by_phone: dict[str, list[ModelVersion]] = field(default_factory=dict)
    #: The id of each phone's device.
    devices: dict[str, DeviceId] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._phones = {phone.name: phone for phone in self.phones}

    def record(self, fleet_event: FleetEvent) -> None:
        """Look at what the phone's keyboard serves, now that something has happened to its phone."""
        if isinstance(fleet_event.event, DeviceEnrolled):
            self.devices[fleet_event.phone] = fleet_event.event.device
        keyboard = self._phones[fleet_event.phone].keyboard
        if keyboard is None or keyboard.served is None:
            return
        served = self.by_phone.setdefault(fleet_event.phone, [])
        if not served or served[-1] != keyboard.served.version:
            served.append(keyboard.served.version)

    @property
    def ever(self) -> set[ModelVersion]:
        """Return all versions that any keyboard has served."""
        return {version for versions in self.by_phone.values() for version in versions}

    def now(self) -> dict[str, ModelVersion]:
        """Return what each keyboard serves now; those that serve nothing yet are left out."""
        return {phone: versions[-1] for phone, versions in self.by_phone.items()}

    def all_serve(self, version: int) -> bool:
        """Return whether every phone's keyboard serves this version."""
        now = self.now()
        return len(now) == len(self.phones) and set(now.values()) == {version}

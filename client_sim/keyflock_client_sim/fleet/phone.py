"""A simulated phone is a device with its traits and a number of training sequences."""

import random
from dataclasses import dataclass

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.installation import DeviceStatus, LocalFacts
from keyflock_client_sim.device.keyboard import ServingKeyboard
from keyflock_client_sim.device.machine import Device
from keyflock_client_sim.fleet.availability import DAY_S
from keyflock_client_sim.fleet.traits import Traits
from keyflock_server.protocol.messages import Conditions


@dataclass(frozen=True, slots=True, eq=False)
class Phone:
    """One simulated phone. Its text is not here: only its trainer ever sees that."""

    name: str
    #: The number of training sequences on the phone.
    examples: int
    traits: Traits
    device: Device
    #: Draws the phone's failures.
    rng: random.Random
    #: Follows the release at every check-in; None on a phone that only trains.
    keyboard: ServingKeyboard | None = None

    def status(self, now_s: float = 0.0) -> DeviceStatus:
        """Return the phone's status on waking up in an idle hour."""
        is_unmetered = self.rng.random() >= self.traits.metered_share
        days = self.traits.days_of_text + now_s / DAY_S
        facts = LocalFacts(
            words_typed=int(self.traits.words_a_day * days),
            days_of_text=int(days),
            free_storage_bytes=self.traits.free_storage_bytes,
            is_opted_in=self.traits.is_opted_in,
        )
        return DeviceStatus(
            conditions=Conditions(is_unmetered=is_unmetered, is_slow=self.traits.is_slow),
            examples=self.examples,
            upload_budget_bytes=None if is_unmetered else self.traits.metered_budget_bytes,
            facts=facts,
        )

    def train_s(self, work: Train) -> float:
        """Return how long the phone takes to do this work."""
        return self.traits.train_s(min(self.examples, work.plan.max_examples) * work.plan.epochs)

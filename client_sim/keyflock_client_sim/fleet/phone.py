"""One simulated phone: the device, what it is like, and how much text lies on it."""

import random
from dataclasses import dataclass

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.installation import Circumstances, LocalFacts
from keyflock_client_sim.device.machine import Device
from keyflock_client_sim.fleet.availability import DAY_S
from keyflock_client_sim.fleet.traits import Traits
from keyflock_server.protocol.messages import Conditions


@dataclass(frozen=True, slots=True, eq=False)
class Phone:
    """A device with a body. Its text is not here: only its trainer ever sees that."""

    name: str
    #: Training sequences on it.
    examples: int
    traits: Traits
    device: Device
    #: Draws what befalls it.
    rng: random.Random

    def circumstances(self, now_s: float = 0.0) -> Circumstances:
        """How it finds itself on waking up in an idle hour."""
        is_unmetered = self.rng.random() >= self.traits.metered_share
        days = self.traits.days_of_text + now_s / DAY_S
        facts = LocalFacts(
            words_typed=int(self.traits.words_a_day * days),
            days_of_text=int(days),
            free_storage_bytes=self.traits.free_storage_bytes,
            is_opted_in=self.traits.is_opted_in,
        )
        return Circumstances(
            conditions=Conditions(is_unmetered=is_unmetered, is_slow=self.traits.is_slow),
            examples=self.examples,
            upload_budget_bytes=None if is_unmetered else self.traits.metered_budget_bytes,
            facts=facts,
        )

    def train_s(self, work: Train) -> float:
        """How long it takes to do this work."""
        return self.traits.train_s(min(self.examples, work.plan.max_examples) * work.plan.epochs)

"""Small fleets."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from keyflock_client_sim.fleet.phone import Phone
from keyflock_client_sim.fleet.population import make_fleet
from keyflock_client_sim.fleet.profiles import PROFILES, FleetProfile
from keyflock_client_sim.testing.fake_trainers import FakeTrainer
from keyflock_server.protocol.identifiers import PopulationName


@dataclass(frozen=True, slots=True)
class Crew:
    """Phones and who trains for them."""

    phones: tuple[Phone, ...]
    examples: dict[str, int]
    trainer: FakeTrainer


@pytest.fixture
def crew() -> Callable[..., Crew]:
    """Makes a fleet with a toy trainer."""

    def hire(count: int = 12, profile: str | FleetProfile = "demo", seed: int = 1) -> Crew:
        examples = {f"phone-{number}": 10 + number for number in range(count)}
        chosen = PROFILES[profile] if isinstance(profile, str) else profile
        phones = make_fleet(examples, population=PopulationName("en-US"), profile=chosen, seed=seed)
        return Crew(phones, examples, FakeTrainer(examples))

    return hire

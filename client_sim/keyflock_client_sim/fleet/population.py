"""A seed becomes a fleet."""

import random
from collections.abc import Mapping

import msgspec

from keyflock_client_sim.device.backoff import Patience
from keyflock_client_sim.device.installation import CODECS, Installation
from keyflock_client_sim.device.local_rules import CHECKED
from keyflock_client_sim.device.machine import Device
from keyflock_client_sim.fleet.phone import Phone
from keyflock_client_sim.fleet.profiles import FleetProfile
from keyflock_client_sim.fleet.traits import draw
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import Capabilities


def make(
    examples: Mapping[str, int],
    *,
    population: PopulationName,
    profile: FleetProfile,
    seed: int,
    patience: Patience | None = None,
    capabilities: Capabilities | None = None,
) -> tuple[Phone, ...]:
    """One phone for each name, in their order.

    Args:
        examples: Training sequences on each phone, by its name. Text is unequal, so these are.
        population: Whose model they share.
        profile: What they are like.
        seed: Decides everything that is drawn, now and later.
        patience: What devices do when the server does not say when to return.
        capabilities: What they can do; None: what every phone can. They encode every codec.
    Guarantees:
        A phone depends on its name, the profile and the seed, not on the others.
    """
    can = msgspec.structs.replace(capabilities or Capabilities(), codecs=CODECS, device_rules=CHECKED)
    return tuple(
        _phone(name, count, population, profile, seed, patience, can) for name, count in examples.items()
    )


def _phone(
    name: str,
    examples: int,
    population: PopulationName,
    profile: FleetProfile,
    seed: int,
    patience: Patience | None,
    capabilities: Capabilities,
) -> Phone:
    # Streams apart, so that one more draw in a device does not change what befalls the phone.
    traits = draw(profile, random.Random(f"traits:{seed}:{name}"))
    installation = Installation(
        population=population,
        app_build=traits.app_build,
        locale=traits.locale,
        capabilities=capabilities,
        tier=traits.tier,
        tags=traits.tags,
    )
    device = Device(
        installation,
        random.Random(f"device:{seed}:{name}"),
        patience=patience,
        starts_at_s=traits.starts_at_s,
    )
    return Phone(name, examples, traits, device, random.Random(f"fate:{seed}:{name}"))

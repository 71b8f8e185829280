"""This module draws a fleet from a seed."""

import random
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from keyflock_client_sim.device.backoff import RetryPolicy
from keyflock_client_sim.device.installation import CODECS, Installation
from keyflock_client_sim.device.keyboard import ServingKeyboard
from keyflock_client_sim.device.local_rules import CHECKED_RULES
from keyflock_client_sim.device.machine import Device
from keyflock_client_sim.fleet.phone import Phone
from keyflock_client_sim.fleet.profiles import FleetProfile
from keyflock_client_sim.fleet.traits import draw_traits
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import Capabilities


def make_fleet(
    examples: Mapping[str, int],
    *,
    population: PopulationName,
    profile: FleetProfile,
    seed: int,
    retry_policy: RetryPolicy | None = None,
    capabilities: Capabilities | None = None,
    with_keyboards: bool = False,
) -> tuple[Phone, ...]:
    """Return one phone for each name, in their order.

    Args:
        examples: The number of training sequences on each phone, by its name.
        population: The population that the phones belong to.
        profile: The distribution of their traits.
        seed: Decides everything that is drawn, now and later.
        retry_policy: How long devices wait when the server does not say when to return.
        capabilities: The devices' capabilities; None: the default. They encode every codec.
        with_keyboards: Whether each phone's keyboard follows the release, at every check-in.
    Guarantees:
        A phone depends on its name, the profile and the seed, not on the others.
    """
    extended = msgspec.structs.replace(
        capabilities or Capabilities(), codecs=CODECS, device_rules=CHECKED_RULES
    )
    phones = (
        _phone(name, count, population, profile, seed, retry_policy, extended)
        for name, count in examples.items()
    )
    if with_keyboards:
        return tuple(replace(phone, keyboard=ServingKeyboard(population)) for phone in phones)
    return tuple(phones)


def _phone(
    name: str,
    examples: int,
    population: PopulationName,
    profile: FleetProfile,
    seed: int,
    retry_policy: RetryPolicy | None,
    capabilities: Capabilities,
) -> Phone:
    # Separate random streams, so that one more draw in a device does not change the phone's failures.
    traits = draw_traits(profile, random.Random(f"traits:{seed}:{name}"))
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
        retry_policy=retry_policy,
        starts_at_s=traits.starts_at_s,
    )
    return Phone(name, examples, traits, device, random.Random(f"fate:{seed}:{name}"))

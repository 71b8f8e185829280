"""Whose data a call is about: this device's alone, or its user's in every population.

Erasure and export ask the same question, so whoever may see the data of a user may delete it, and nobody
else.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import Owner
from keyflock_server.identity.revocations import void_token
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.records import DeviceRecord


@dataclass(frozen=True, slots=True)
class DataSubject:
    """The devices that a call is about, and the user, if it is about all of a user."""

    devices: tuple[DeviceRecord, ...]
    #: The user as the owner of personal models, by population; empty for a call about one device.
    users: Mapping[PopulationName, Owner]


async def find_data_subject(
    deps: Dependencies, identity: DeviceIdentity, user: str | None, *, is_whole_user: bool
) -> DataSubject:
    """Return the device, or all devices of its user.

    Args:
        deps: The store and the users.
        identity: The device that asks.
        user: Proof of its user, needed for a call about the user.
        is_whole_user: Whether the call is about the user.
    Raises:
        ApiError: ``token_invalid``; ``user_not_proven``; ``forbidden`` for a user other than the device's.
    """
    known = await deps.store.devices.get(identity.device)
    if known is None or known.population != identity.population:
        raise void_token()
    if not is_whole_user:
        return DataSubject((known,), {})
    proven = deps.users.authenticate_stored(user, deps.clock())
    if known.user_digest != deps.users.digest(known.population, proven):
        raise ApiError(ProblemCode.FORBIDDEN, "That is not the user whom this device names.")
    digests = {
        population.name: deps.users.digest(population.name, proven)
        for population in await deps.store.populations.all()
    }
    theirs = await deps.store.devices.list_by_users(list(digests.values()))
    return DataSubject(tuple(theirs), {name: Owner(digest) for name, digest in digests.items()})

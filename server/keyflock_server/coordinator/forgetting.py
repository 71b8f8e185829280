"""Forget-me: which devices and whose personal models go, and that nothing of them is counted afterwards."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from keyflock_server.coordinator.desk import Desk
from keyflock_server.coordinator.micro_batch import Outcome
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.token_revocations import TokenRevocations
from keyflock_server.coordinator.tombstones import remains
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import Owner, phone_owner
from keyflock_server.identity.revocations import void_token
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, TaskName
from keyflock_server.protocol.messages import Forgotten
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.storage.records import DeviceRecord


@dataclass(frozen=True, slots=True)
class ErasureScope:
    """What one forget-me takes."""

    devices: tuple[DeviceId, ...]
    #: Whose personal models, by population.
    owners: Mapping[PopulationName, tuple[Owner, ...]]


class Forgetting:
    """Forgets devices."""

    def __init__(
        self, world: Surroundings, revocations: TokenRevocations, desks: Mapping[TaskName, Desk]
    ) -> None:
        self._world = world
        self._revocations = revocations
        self._desks = desks

    async def scope(self, identity: DeviceIdentity, user: str | None, *, is_whole_user: bool) -> ErasureScope:
        """Return what goes: this device alone, or its user's devices in every population.

        Args:
            identity: The device that asks.
            user: What proves its user, when all that is the user's is to go.
            is_whole_user: Whether it is; else the device goes, with what it stored while it named no user.
        Raises:
            Refused: ``token_invalid``; ``user_not_proven``; ``forbidden`` for another user than the device's.
        """
        world = self._world
        known = await world.store.devices.get(identity.device)
        if known is None or known.population != identity.population:
            raise void_token()
        if not is_whole_user:
            return self._scope([known], {})
        proven = world.users.remembered(user, world.clock())
        if known.user_digest != world.users.digest(known.population, proven):
            raise Refused(ProblemCode.FORBIDDEN, "That is not the user whom this device names.")
        digests = {
            population.name: world.users.digest(population.name, proven)
            for population in await world.store.populations.all()
        }
        theirs = await world.store.devices.of_users(list(digests.values()))
        return self._scope(theirs, {name: Owner(digest) for name, digest in digests.items()})

    async def forget(self, devices: Sequence[DeviceId]) -> Forgotten:
        """Delete the devices; once this returns their tokens are void and nothing of them is counted."""
        world, now = self._world, self._world.clock()
        revoked = [self._revocations.of_forgotten(device) for device in devices]
        # A task whose row is damaged limits nobody; to forget cannot wait until it is mended.
        rule = remains(world.owner_key, await world.store.tasks.all([]), now)
        gone = await world.store.devices.forget(devices, revoked, rule, now)
        for record in revoked:
            self._revocations.learn(record)
        for desk in self._desks.values():
            await self._drop_pending(desk, devices)
        return Forgotten(devices=gone)

    def _scope(
        self, devices: Collection[DeviceRecord], users: Mapping[PopulationName, Owner]
    ) -> ErasureScope:
        owners = {name: {owner} for name, owner in users.items()}
        for one in devices:
            mine = phone_owner(self._world.owner_key, one.population, one.id)
            owners.setdefault(one.population, set()).add(mine)
        return ErasureScope(
            devices=tuple(one.id for one in devices),
            owners={name: tuple(sorted(theirs)) for name, theirs in owners.items()},
        )

    async def _drop_pending(self, desk: Desk, devices: Collection[DeviceId]) -> None:
        """Take the devices' reports out of the batch that waits, and let their phones hear so.

        Only those that are summed already; one that is being decoded now finds its assignment given back.
        """
        if desk.open is not None:
            for id_ in [one.id for one in desk.open.members.values() if one.device in devices]:
                del desk.open.members[id_]  # the store knows better by now
        if desk.open is None or not desk.open.batch.of_devices(devices):
            return
        # A flush under way has taken them with it: its transaction decides.
        async with desk.turn:
            if desk.open is not None:
                batch = desk.open.batch
                dropped = await self._world.workbench.run(batch.sum.drop, batch.of_devices(devices))
                batch.settle(dropped, Outcome.FORGOTTEN)

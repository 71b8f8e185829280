"""Erasure deletes the devices and personal models of a forget-me, and counts none of their reports."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.data_subject import find_data_subject
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.early_check_ins import EarlyCheckIns
from keyflock_server.coordinator.micro_batch import ReportOutcome
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.task_state import TaskState
from keyflock_server.coordinator.token_revocations import TokenRevocations
from keyflock_server.coordinator.tombstones import tombstone_rule
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import Owner, phone_owner
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.messages import Forgotten
from keyflock_server.protocol.problems import ApiError, ProblemCode


@dataclass(frozen=True, slots=True)
class ErasureTargets:
    """What one forget-me erases."""

    devices: tuple[DeviceId, ...]
    #: Owners of the personal models to erase, by population.
    owners: Mapping[PopulationName, tuple[Owner, ...]]


class ErasureService:
    """Erases devices."""

    def __init__(
        self,
        deps: Dependencies,
        revocations: TokenRevocations,
        registry: TaskRegistry,
        early_check_ins: EarlyCheckIns,
    ) -> None:
        self._deps = deps
        self._revocations = revocations
        self._registry = registry
        self._early_check_ins = early_check_ins

    async def targets(
        self, identity: DeviceIdentity, user: str | None = None, *, is_whole_user: bool = False
    ) -> ErasureTargets:
        """Return what is erased: this device alone, or its user's devices in every population.

        Args:
            identity: The device that asks.
            user: Proof of its user, needed to erase everything of the user.
            is_whole_user: Whether to erase all of the user; else only the device, with what it stored while
                it named no user.
        Raises:
            ApiError: ``token_invalid``; ``user_not_proven``; ``forbidden`` for a user other than the
                device's.
        """
        subject = await find_data_subject(self._deps, identity, user, is_whole_user=is_whole_user)
        owners = {name: {owner} for name, owner in subject.users.items()}
        for one in subject.devices:
            mine = phone_owner(self._deps.owner_key, one.population, one.id)
            owners.setdefault(one.population, set()).add(mine)
        return ErasureTargets(
            devices=tuple(one.id for one in subject.devices),
            owners={name: tuple(sorted(theirs)) for name, theirs in owners.items()},
        )

    async def targets_of(self, device: DeviceId) -> ErasureTargets:
        """Return what is erased with one device: it alone, with what it stored while it named no user.

        Raises:
            ApiError: ``not_found``.
        """
        known = await self._deps.store.devices.get(device)
        if known is None:
            raise ApiError(ProblemCode.NOT_FOUND, "There is no such device here.")
        mine = phone_owner(self._deps.owner_key, known.population, known.id)
        return ErasureTargets(devices=(known.id,), owners={known.population: (mine,)})

    async def forget(self, devices: Sequence[DeviceId], *, audit: AuditContext | None = None) -> Forgotten:
        """Delete the devices; once this returns their tokens are void and nothing of them is counted.

        Args:
            devices: The devices.
            audit: The operator who forgets the one device, and why; None for what phones ask for.
        """
        if audit is not None:
            audit = audit.about(self._deps.revocations.digest(devices[0]))
        deps, now = self._deps, self._deps.clock()
        for device in devices:
            self._early_check_ins.forget(device)
        revoked = [self._revocations.revocation_of_forgotten(device) for device in devices]
        # A task with a damaged row limits no device; erasure cannot wait until it is repaired.
        rule = tombstone_rule(deps.owner_key, await deps.store.tasks.all([]), now)
        erased = await deps.store.devices.forget(devices, revoked, rule, now, audit=audit)
        for device in devices:
            deps.activity.set_quarantine(device, None)
        for record in revoked:
            self._revocations.apply(record)
        for state in self._registry:
            await self._drop_pending(state, devices)
        return Forgotten(devices=erased)

    async def _drop_pending(self, state: TaskState, devices: Collection[DeviceId]) -> None:
        """Remove the devices' reports from the pending batch, and answer their phones.

        This concerns reports that are summed already; one that is being decoded has lost its assignment.
        """
        if state.open_round is not None:
            for id_ in [one.id for one in state.open_round.members.values() if one.device in devices]:
                del state.open_round.members[id_]  # the store has a newer state
        if state.open_round is None or not state.open_round.batch.ids_of_devices(devices):
            return
        # A flush under way may contain them: its transaction decides.
        async with state.flush_lock, state.round_lock:
            if state.open_round is not None:
                batch = state.open_round.batch
                dropped = await self._deps.compute.run(batch.sum.drop, batch.ids_of_devices(devices))
                batch.settle(dropped, ReportOutcome.FORGOTTEN)

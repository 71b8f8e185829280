"""Device tokens of earlier releases do not describe their device: its row is read once instead."""

from dataclasses import replace
from typing import Final

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.recent_entries import RecentEntries
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.revocations import void_token

_MAX_REMEMBERED: Final = 16_384


class TokenDescriptions:
    """Describes the devices whose tokens do not; the last such token expires soon after an upgrade."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._known: RecentEntries[DeviceIdentity] = RecentEntries(_MAX_REMEMBERED)

    async def described(self, identity: DeviceIdentity) -> DeviceIdentity:
        """Return the identity with what a token would say of the device now.

        Raises:
            ApiError: ``token_invalid`` for a device that is not enrolled any more, or is in another
                population.
        """
        key = (identity.device, identity.population, identity.generation)
        known = self._known.get(key)
        if known is not None:
            return known
        row = await self._deps.store.devices.get(identity.device)
        if row is None or row.population != identity.population:
            raise void_token()
        self._deps.activity.adopt_history(row.facts)
        known = replace(
            identity,
            is_described=True,
            tier=row.tier,
            tags=row.tags,
            last_contributed_at=row.last_contributed_at,
        )
        self._known.put(key, known)
        return known

"""A cache of users' serving profiles, made from stored personal models and dropped when these change."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cachetools import FIFOCache

from keyflock_models.serving.profile import ServingProfile
from keyflock_models.serving.vocabulary_index import VocabularyIndex
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import Owner
from keyflock_server.personal_models.decode_thread_pool import DecodeThreadPool
from keyflock_server.personal_models.population_model_info import PopulationModelInfos
from keyflock_server.personal_models.service import PersonalModelService
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.clock import Clock
from keyflock_server.suggestions.released_trunks import ReleasedTrunk
from keyflock_server.telemetry.log_context import shared_task
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

_log: Final = logger("keyflock.suggestions")
_MAX_OWNERS: Final = 65_536
#: Memory of an entry beside its profile, or of an entry without one.
_ENTRY_BYTES: Final = 1_024
#: A user's profile is dropped after this time without a request.
_UNUSED_AFTER: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class _CachedOwner:
    owner: Owner
    until: datetime


@dataclass(slots=True)
class _CachedProfile:
    """The profile made from the personal model with this tag, or that there is none."""

    population: PopulationName
    profile: ServingProfile | None
    tag: bytes | None
    #: When the tag was last compared with the store, and when the profile was last used.
    validated_at: datetime
    used_at: datetime

    @property
    def size_bytes(self) -> int:
        """Return the approximate memory that the entry takes."""
        return _ENTRY_BYTES + (0 if self.profile is None else self.profile.size_bytes)


class ProfileCache:
    """Caches the profiles of the most recent users.

    Args:
        personal_models: The stored personal models.
        model_infos: The populations' vocabularies and dimensions.
        clock: Returns the current time, aware UTC.
        metrics: Counts hits, loads and bytes.
        threads: Run the decoding of personal models.
        max_bytes: Maximum memory of all profiles; the one used last is kept whatever its size.
        ttl: How long an entry is used without asking the store whether the phone, its user and the user's
            model are still the same. Changes in this process take effect at once, those in other processes
            after this time.
    """

    def __init__(
        self,
        personal_models: PersonalModelService,
        model_infos: PopulationModelInfos,
        clock: Clock,
        metrics: Metrics,
        *,
        threads: DecodeThreadPool,
        max_bytes: int,
        ttl: timedelta,
    ) -> None:
        self._ttl = ttl
        self._personal_models = personal_models
        self._model_infos = model_infos
        self._clock = clock
        self._metrics = metrics
        self._threads = threads
        self._max_bytes = max_bytes
        self._bytes = 0
        self._owners: FIFOCache[DeviceId, _CachedOwner] = FIFOCache(_MAX_OWNERS)
        self._profiles: OrderedDict[Owner, _CachedProfile] = OrderedDict()
        #: Loads under way; a second request for the same owner waits for the first.
        self._loading: dict[Owner, asyncio.Task[None]] = {}

    async def get(self, identity: DeviceIdentity, released: ReleasedTrunk) -> ServingProfile | None:
        """Return the profile of the phone's user, its head mapped to the released version where possible.

        Returns:
            The profile, or None when nothing readable is stored.
        """
        owner = await self._owner(identity)
        now = self._clock()
        held = self._profiles.get(owner)
        if held is not None and held.population != identity.population:
            # A user is the same in a deleted population and in a later one of its name; the model is not.
            self.drop(owner)
            held = None
        if held is not None and now - held.validated_at >= self._ttl:
            held = await self._revalidate(identity.population, owner, held, now)
        if held is None:
            if owner not in self._loading:
                self._metrics.profiles.labels("load").inc()
                self._loading[owner] = shared_task(self._load(identity.population, owner, released.index))
            await asyncio.shield(self._loading[owner])
            held = self._profiles.get(owner)
            if held is None:  # another model was stored while this one was read
                return None
        else:
            self._metrics.profiles.labels("hit").inc()
        if owner in self._profiles:
            self._profiles.move_to_end(owner)
        held.used_at = now
        if held.profile is not None:
            before = held.size_bytes
            held.profile = held.profile.for_trunk(released.trunk.space, released.maps)
            if self._profiles.get(owner) is held:
                self._add_bytes(held.size_bytes - before)
        return held.profile

    async def _revalidate(
        self, population: PopulationName, owner: Owner, held: _CachedProfile, now: datetime
    ) -> _CachedProfile | None:
        """Return the same profile if its model is still the stored one; else drop it and return None."""
        if await self._personal_models.tag(population, owner) == held.tag:
            held.validated_at = now
            return held
        if self._profiles.get(owner) is held:
            self.drop(owner)
        return None

    def drop_unused(self) -> None:
        """Drop the profiles that were not used in the last hour."""
        before = self._clock() - _UNUSED_AFTER
        while self._profiles and next(iter(self._profiles.values())).used_at < before:
            self._drop_oldest()

    def drop(self, owner: Owner) -> None:
        """Drop an owner's profile, because the stored model was changed or deleted."""
        held = self._profiles.pop(owner, None)
        if held is not None:
            self._add_bytes(-held.size_bytes)
        # A load under way may have read the old model, so its result is not stored.
        self._loading.pop(owner, None)

    def owner_changed(self, device: DeviceId) -> None:
        """Forget the phone's owner, which may be another one now, or none."""
        self._owners.pop(device, None)

    async def _owner(self, identity: DeviceIdentity) -> Owner:
        now = self._clock()
        known = self._owners.get(identity.device)
        if known is None or known.until <= now:
            owner = await self._personal_models.owner(identity)
            known = self._owners[identity.device] = _CachedOwner(owner, now + self._ttl)
        return known.owner

    async def _load(self, population: PopulationName, owner: Owner, index: VocabularyIndex) -> None:
        mine = asyncio.current_task()
        try:
            asked_at = self._clock()
            profile, tag = await self._read(population, owner, index)
            if self._loading.get(owner) is mine:
                self._store(owner, _CachedProfile(population, profile, tag, asked_at, asked_at))
        finally:
            if self._loading.get(owner) is mine:
                del self._loading[owner]

    def _store(self, owner: Owner, held: _CachedProfile) -> None:
        before = self._profiles.pop(owner, None)
        self._profiles[owner] = held
        self._add_bytes(held.size_bytes - (0 if before is None else before.size_bytes))
        while self._bytes > self._max_bytes and len(self._profiles) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, held = self._profiles.popitem(last=False)
        self._add_bytes(-held.size_bytes)

    def _add_bytes(self, difference: int) -> None:
        self._bytes += difference
        self._metrics.profile_bytes.set(self._bytes)

    async def _read(
        self, population: PopulationName, owner: Owner, index: VocabularyIndex
    ) -> tuple[ServingProfile | None, bytes | None]:
        language = await self._model_infos.get(population)
        try:
            stored = await self._personal_models.read(population, owner)
            if stored is None:
                return None, None
            data = stored.data
            profile = await self._threads.run(
                lambda: ServingProfile.from_model(language.decode_personal_model(data), index)
            )
        except ApiError as refused:
            if refused.code is ProblemCode.OVERLOADED:
                raise  # it says nothing about the model
            # A keyboard whose personal model cannot be read still needs suggestions.
            _log.warning("a head cannot be used for suggestions", population=population, code=refused.code)
            return None, await self._personal_models.tag(population, owner)
        return profile, stored.tag

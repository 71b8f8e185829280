"""Users' models in memory: those who typed last. Made from stored heads, dropped when the head changes."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from keyflock_models.serving.profile import ServingProfile
from keyflock_models.serving.vocabulary_index import VocabularyIndex
from keyflock_server.heads.heads import Heads
from keyflock_server.heads.reader import Languages
from keyflock_server.heads.reading_threads import ReadingThreads
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import Owner
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.storage.door import Clock
from keyflock_server.suggestions.released import ReleasedTrunk
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

_log: Final = logger("keyflock.suggestions")
_OWNERS: Final = 65_536
#: Of an entry beside its profile, or where there is none.
_ENTRY_BYTES: Final = 1_024
#: Nobody's words stay in memory who has typed none for so long.
_UNUSED: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class _KnownOwner:
    owner: Owner
    until: datetime


@dataclass(slots=True)
class _Held:
    """A profile, or that there is none, made of the head with this tag."""

    profile: ServingProfile | None
    tag: bytes | None
    #: When the store was asked last, and when somebody asked for it last.
    seen_at: datetime
    used_at: datetime

    @property
    def size_bytes(self) -> int:
        """About what it takes of memory."""
        return _ENTRY_BYTES + (0 if self.profile is None else self.profile.size_bytes)


class Profiles:
    """The most recent users' profiles.

    Args:
        heads: The store.
        languages: The populations' words and dimensions.
        clock: Gives now, aware UTC.
        metrics: Where hits, loads and bytes are counted.
        threads: Where profiles are made.
        max_bytes: Of all profiles held; the one asked for last is held whatever it takes.
        trust: How long the store need not be asked whether the phone, its user and the user's head are the
            same still. This process hears of its own changes at once; other processes' wait for it.
    """

    def __init__(
        self,
        heads: Heads,
        languages: Languages,
        clock: Clock,
        metrics: Metrics,
        *,
        threads: ReadingThreads,
        max_bytes: int,
        trust: timedelta,
    ) -> None:
        self._trust = trust
        self._heads = heads
        self._languages = languages
        self._clock = clock
        self._metrics = metrics
        self._threads = threads
        self._max_bytes = max_bytes
        self._bytes = 0
        self._owners: OrderedDict[DeviceId, _KnownOwner] = OrderedDict()
        self._profiles: OrderedDict[Owner, _Held] = OrderedDict()
        #: Loads under way: who asks twice waits for the first.
        self._loading: dict[Owner, asyncio.Task[None]] = {}

    async def of(self, identity: DeviceIdentity, released: ReleasedTrunk) -> ServingProfile | None:
        """The profile of the phone's user, its head carried along to the released version where it can be.

        Returns:
            None when nothing readable is stored.
        """
        owner = await self._owner(identity)
        now = self._clock()
        held = self._profiles.get(owner)
        if held is not None and now - held.seen_at >= self._trust:
            held = await self._seen_again(identity.population, owner, held, now)
        if held is None:
            if owner not in self._loading:
                self._metrics.profiles.labels("load").inc()
                self._loading[owner] = asyncio.create_task(
                    self._load(identity.population, owner, released.index)
                )
            await asyncio.shield(self._loading[owner])
            held = self._profiles.get(owner)
            if held is None:  # another head came while this one was read
                return None
        else:
            self._metrics.profiles.labels("hit").inc()
        if owner in self._profiles:
            self._profiles.move_to_end(owner)
        held.used_at = now
        if held.profile is not None:
            before = held.size_bytes
            held.profile = held.profile.following(released.trunk.space, released.maps)
            if self._profiles.get(owner) is held:
                self._weigh(held.size_bytes - before)
        return held.profile

    async def _seen_again(
        self, population: PopulationName, owner: Owner, held: _Held, now: datetime
    ) -> _Held | None:
        """The same profile, if it is of the head that is stored now; else it is dropped."""
        if await self._heads.tag(population, owner) == held.tag:
            held.seen_at = now
            return held
        if self._profiles.get(owner) is held:
            self.drop(owner)
        return None

    def drop_unused(self) -> None:
        """Forget profiles that nobody has asked for in the last hour."""
        before = self._clock() - _UNUSED
        while self._profiles and next(iter(self._profiles.values())).used_at < before:
            self._drop_oldest()

    def drop(self, owner: Owner) -> None:
        """The owner's head is another one now, or none."""
        held = self._profiles.pop(owner, None)
        if held is not None:
            self._weigh(-held.size_bytes)
        # A load under way may have read the old one: its result is not kept.
        self._loading.pop(owner, None)

    def renamed(self, device: DeviceId) -> None:
        """The phone may be somebody else's now, or nobody's."""
        self._owners.pop(device, None)

    async def _owner(self, identity: DeviceIdentity) -> Owner:
        now = self._clock()
        known = self._owners.get(identity.device)
        if known is None or known.until <= now:
            owner = await self._heads.owner(identity)
            known = self._owners[identity.device] = _KnownOwner(owner, now + self._trust)
            while len(self._owners) > _OWNERS:
                self._owners.popitem(last=False)
        return known.owner

    async def _load(self, population: PopulationName, owner: Owner, index: VocabularyIndex) -> None:
        mine = asyncio.current_task()
        try:
            asked_at = self._clock()
            profile, tag = await self._read(population, owner, index)
            if self._loading.get(owner) is mine:
                self._keep(owner, _Held(profile, tag, asked_at, asked_at))
        finally:
            if self._loading.get(owner) is mine:
                del self._loading[owner]

    def _keep(self, owner: Owner, held: _Held) -> None:
        before = self._profiles.pop(owner, None)
        self._profiles[owner] = held
        self._weigh(held.size_bytes - (0 if before is None else before.size_bytes))
        while self._bytes > self._max_bytes and len(self._profiles) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, held = self._profiles.popitem(last=False)
        self._weigh(-held.size_bytes)

    def _weigh(self, difference: int) -> None:
        self._bytes += difference
        self._metrics.profile_bytes.set(self._bytes)

    async def _read(
        self, population: PopulationName, owner: Owner, index: VocabularyIndex
    ) -> tuple[ServingProfile | None, bytes | None]:
        language = await self._languages.of(population)
        try:
            stored = await self._heads.read(population, owner)
            if stored is None:
                return None, None
            data = stored.data
            profile = await self._threads.run(lambda: ServingProfile.of(language.read(data), index))
        except Refused as refused:
            if refused.code is ProblemCode.OVERLOADED:
                raise  # it says nothing of the head
            # A keyboard whose head cannot be read still needs words.
            _log.warning("a head cannot be used for suggestions", population=population, code=refused.code)
            return None, await self._heads.tag(population, owner)
        return profile, stored.tag

"""What a phone needs of a version beyond what it has: the difference to a version that it may have.

A difference is made when the first phone asks for it, off the event loop, and kept with others in bounded
memory. It is only ever a saving: whatever is missing or damaged on the way, the answer is that there is none,
and the phone gets the whole.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from keyflock_compression import CodecError, content_digest, encode_weights_delta
from keyflock_server.coordinator.shared_work import SharedWork
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.messages import ModelWeights
from keyflock_server.protocol.problems import Refused
from keyflock_server.releases.model_version import VersionRecord, download_digest
from keyflock_server.storage.door import StorageError, StorageUnavailable

#: A phone that is further behind gets the whole.
BASES_KEPT: Final = 8
#: No phone waits longer for what is only a saving. Many times what it takes to read and make.
PATIENCE_S: Final = 5.0
#: Of all differences in memory.
MAX_DELTA_BYTES: Final = 33_554_432
#: What an entry takes beside its body; so that even many that say "there is none" are bounded.
_ENTRY_BYTES: Final = 256
_KEPT_CONTENTS: Final = 256
_UNREADABLE_FOR: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class ModelDelta:
    """How one download follows from another."""

    #: A container of ``encode_weights_delta``.
    body: bytes
    #: SHA-256 of the download that it is applied to.
    base: bytes


class _Named(NamedTuple):
    """A download by its version and which of the version's weights it has."""

    version: ModelVersion
    weights: ModelWeights


class Downlink:
    """Differences between downloads, for all populations.

    Args:
        world: Blobs are read there, and the numbers are worked out on its workbench.
        trunk: Knows the versions.
    """

    def __init__(self, world: Surroundings, trunk: Trunk) -> None:
        self._world = world
        self._trunk = trunk
        #: By target's and base's digest; None: it would not be smaller than the whole, or cannot be made.
        self._deltas: OrderedDict[tuple[bytes, bytes], bytes | None] = OrderedDict()
        self._held_bytes = 0
        #: By the download's digest; None, and until when it is not tried again, if it could not be read.
        self._contents: OrderedDict[bytes, tuple[bytes | None, datetime]] = OrderedDict()
        #: Each population's newest version when it was looked up, and the downloads that deltas lead between.
        self._recent: dict[PopulationName, tuple[ModelVersion, dict[bytes, _Named]]] = {}
        #: The blob store did not answer: until then nobody waits for it.
        self._away_until = datetime.min.replace(tzinfo=UTC)
        self._making: SharedWork[tuple[bytes, bytes], bytes | None] = SharedWork(PATIENCE_S)
        self._reading: SharedWork[bytes, bytes | None] = SharedWork(PATIENCE_S)
        #: Held while a delta is made: two models are in memory for it.
        self._one_at_a_time = asyncio.Lock()
        self._listing = asyncio.Lock()

    async def delta(
        self, name: PopulationName, version: int, weights: ModelWeights, has: Collection[bytes]
    ) -> ModelDelta | None:
        """The smallest step from a download that the phone has; None: it needs the whole.

        Args:
            name: The population.
            version: What the phone wants.
            weights: And which of the version's weights.
            has: Digests of downloads that it says it has; anything at all may be among them.
        Edge cases:
            it is not made within ``PATIENCE_S`` -> None; it is there for whoever comes later
        Raises:
            Refused: ``model_unknown`` or ``model_withdrawn``.
        """
        record = await self._trunk.version(name, version)
        target = record.digest_of(weights)
        known = await self._known(name)
        bases = [digest for digest in has if digest in known and digest != target]
        # Old targets have no deltas: what a phone can have made must not grow with the versions.
        if not bases or target not in known:
            return None

        def distance(digest: bytes) -> tuple[int, bool, bytes]:
            base = known[digest]
            return abs(record.version - base.version), base.weights is not weights, digest

        base = min(bases, key=distance)
        pair, wanted = (target, base), _Named(record.version, weights)
        if pair in self._deltas:
            self._deltas.move_to_end(pair)
            body = self._deltas[pair]
        elif self._world.clock() < self._away_until:
            return None
        else:
            body = await self._making.result(pair, lambda: self._make(name, pair, wanted, known[base]))
        return None if body is None else ModelDelta(body, base)

    async def content(self, record: VersionRecord, weights: ModelWeights) -> bytes | None:
        """What a phone may check whatever it got against: the digest of what the download says.

        Edge cases:
            the download is lost, damaged or cannot be reached -> None, and no wait for it in the next half
            minute; it is not read within ``PATIENCE_S`` -> None, and no wait until it is: no check-in depends
            on the blob store
        """
        digest, now = record.digest_of(weights), self._world.clock()
        found, until = self._contents.get(digest, (None, now))
        if found is not None:
            self._contents.move_to_end(digest)
            return found
        if now < until:
            return None
        return await self._reading.result(digest, lambda: self._read_content(record, weights))

    async def stop(self) -> None:
        """Give up what is being made or read."""
        await self._making.stop()
        await self._reading.stop()

    async def _read_content(self, record: VersionRecord, weights: ModelWeights) -> bytes | None:
        found = None
        with contextlib.suppress(StorageUnavailable):
            body = await self._intact(record, weights)
            found = None if body is None else await self._world.workbench.run(_content, body)
        digest = record.digest_of(weights)
        self._contents[digest] = found, self._world.clock() + _UNREADABLE_FOR
        self._contents.move_to_end(digest)
        while len(self._contents) > _KEPT_CONTENTS:
            self._contents.popitem(last=False)
        return found

    async def _known(self, name: PopulationName) -> dict[bytes, _Named]:
        latest = (await self._trunk.population(name)).latest_version
        async with self._listing:  # a thousand phones that ask at once cost one look
            known = self._recent.get(name)
            if known is None or known[0] < latest:
                known = self._recent[name] = latest, await self._listed(name, latest)
        return known[1]

    async def _listed(self, name: PopulationName, latest: ModelVersion) -> dict[bytes, _Named]:
        found: dict[bytes, _Named] = {}
        for version in range(max(0, latest - BASES_KEPT + 1), latest + 1):
            try:
                # One that was withdrawn is still what phones have: the newest may follow from it.
                record = await self._trunk.any_version(name, version)
            except Refused:  # it was pruned
                continue
            for weights in ModelWeights:
                found.setdefault(record.digest_of(weights), _Named(record.version, weights))
        return found

    async def _make(
        self, name: PopulationName, pair: tuple[bytes, bytes], target: _Named, base: _Named
    ) -> bytes | None:
        async with self._one_at_a_time:
            if self._world.clock() < self._away_until:
                return None
            try:
                made = await self._made(name, target, base)
            except StorageUnavailable:
                self._away_until = self._world.clock() + _UNREADABLE_FOR
                return None
            self._keep(pair, made)
        return made

    async def _made(self, name: PopulationName, target: _Named, base: _Named) -> bytes | None:
        try:
            records = [await self._trunk.any_version(name, one.version) for one in (target, base)]
        except Refused:  # it was pruned since
            return None
        after = await self._intact(records[0], target.weights)
        before = await self._intact(records[1], base.weights)
        if after is None or before is None:
            return None
        return await self._world.workbench.run(_smaller, after, before)

    async def _intact(self, record: VersionRecord, weights: ModelWeights) -> bytes | None:
        """A version's download as it was published; None if it is lost or damaged.

        Raises:
            StorageUnavailable: whether it is cannot be known now.
        """
        try:
            body = (await self._trunk.stored(record, weights)).body
        except StorageUnavailable:
            raise
        except StorageError:
            return None
        digest = await self._world.workbench.run(download_digest, body)
        return body if digest == record.digest_of(weights) else None

    def _keep(self, key: tuple[bytes, bytes], body: bytes | None) -> None:
        self._deltas[key] = body
        self._held_bytes += _weight(body)
        while self._held_bytes > MAX_DELTA_BYTES:
            _, body = self._deltas.popitem(last=False)
            self._held_bytes -= _weight(body)


def _content(body: bytes) -> bytes | None:
    try:
        return content_digest(body)
    except CodecError:
        return None


def _smaller(after: bytes, before: bytes) -> bytes | None:
    try:
        delta = encode_weights_delta(after, before)
    except CodecError:
        return None
    return delta if len(delta) < len(after) else None


def _weight(body: bytes | None) -> int:
    return _ENTRY_BYTES + len(body or b"")

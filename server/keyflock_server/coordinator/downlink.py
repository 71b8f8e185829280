"""What a phone needs of a version beyond what it has: the difference to a version that it may have.

A difference is made when the first phone asks for it, off the event loop, and kept with others in bounded
memory. It is only ever a saving: whatever is missing or damaged on the way, the answer is that there is none,
and the phone gets the whole.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from keyflock_compression import CodecError, content_digest, encode_weights_delta
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.messages import ModelWeights
from keyflock_server.protocol.problems import Refused
from keyflock_server.releases.model_version import VersionRecord, download_digest
from keyflock_server.storage.door import StorageError, StorageUnavailable

#: A phone that is further behind gets the whole.
BASES_KEPT: Final = 8
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
        #: Each population's newest version when it was looked up, and the downloads that may be bases.
        self._bases: dict[PopulationName, tuple[ModelVersion, dict[bytes, _Named]]] = {}
        #: The blob store did not answer: until then nobody waits for it.
        self._away_until = datetime.min.replace(tzinfo=UTC)
        #: Held while something is made: a thousand phones that ask at once cost one computation.
        self._making = asyncio.Lock()
        self._reading = asyncio.Lock()

    async def delta(
        self, name: PopulationName, version: int, weights: ModelWeights, has: Collection[bytes]
    ) -> ModelDelta | None:
        """The smallest step from a download that the phone has; None: it needs the whole.

        Args:
            name: The population.
            version: What the phone wants.
            weights: And which of the version's weights.
            has: Digests of downloads that it says it has; anything at all may be among them.
        Raises:
            Refused: ``model_unknown``.
        """
        record = await self._trunk.version(name, version)
        target = record.digest_of(weights)
        async with self._making:
            known = await self._known(name)
            bases = [digest for digest in has if digest in known and digest != target]
            if not bases:
                return None

            def distance(digest: bytes) -> tuple[int, bool, bytes]:
                base = known[digest]
                return abs(record.version - base.version), base.weights is not weights, digest

            base = min(bases, key=distance)
            if (target, base) not in self._deltas:
                if self._world.clock() < self._away_until:
                    return None
                try:
                    made = await self._made(name, _Named(record.version, weights), known[base])
                except StorageUnavailable:
                    self._away_until = self._world.clock() + _UNREADABLE_FOR
                    return None
                self._keep((target, base), made)
            self._deltas.move_to_end((target, base))
            body = self._deltas[target, base]
            self._trim()
        return None if body is None else ModelDelta(body, base)

    async def content(self, record: VersionRecord, weights: ModelWeights) -> bytes | None:
        """What a phone may check whatever it got against: the digest of what the download says.

        Edge cases:
            the download is lost, damaged or cannot be reached -> None, and no wait for it in the next half
            minute: no check-in depends on the blob store
        """
        digest, now = record.digest_of(weights), self._world.clock()
        async with self._reading:
            found, until = self._contents.get(digest, (None, now))
            if found is None and now >= until:
                found = await self._read_content(record, weights)
                self._contents[digest] = found, now + _UNREADABLE_FOR
            self._contents.move_to_end(digest)
            while len(self._contents) > _KEPT_CONTENTS:
                self._contents.popitem(last=False)
        return found

    async def _read_content(self, record: VersionRecord, weights: ModelWeights) -> bytes | None:
        try:
            body = await intact(self._trunk, record, weights)
        except StorageUnavailable:
            return None
        if body is None:
            return None
        return await self._world.workbench.run(_content, body)

    async def _known(self, name: PopulationName) -> dict[bytes, _Named]:
        latest = (await self._trunk.population(name)).latest_version
        known = self._bases.get(name)
        if known is not None and known[0] == latest:
            return known[1]
        found: dict[bytes, _Named] = {}
        for version in range(max(0, latest - BASES_KEPT + 1), latest + 1):
            try:
                record = await self._trunk.version(name, version)
            except Refused:  # it was pruned
                continue
            for weights in ModelWeights:
                found.setdefault(record.digest_of(weights), _Named(record.version, weights))
        self._bases[name] = latest, found
        return found

    async def _made(self, name: PopulationName, target: _Named, base: _Named) -> bytes | None:
        try:
            records = [await self._trunk.version(name, one.version) for one in (target, base)]
        except Refused:  # it was pruned since
            return None
        after = await intact(self._trunk, records[0], target.weights)
        before = await intact(self._trunk, records[1], base.weights)
        if after is None or before is None:
            return None
        return await self._world.workbench.run(_smaller, after, before)

    def _keep(self, key: tuple[bytes, bytes], body: bytes | None) -> None:
        self._deltas[key] = body
        self._held_bytes += _weight(body)

    def _trim(self) -> None:
        while self._held_bytes > MAX_DELTA_BYTES:
            _, body = self._deltas.popitem(last=False)
            self._held_bytes -= _weight(body)


async def intact(trunk: Trunk, record: VersionRecord, weights: ModelWeights) -> bytes | None:
    """A version's download as it was published; None if it is lost or damaged.

    Raises:
        StorageUnavailable: whether it is cannot be known now.
    """
    try:
        body = (await trunk.stored(record, weights)).body
    except StorageUnavailable:
        raise
    except StorageError:
        return None
    return body if download_digest(body) == record.digest_of(weights) else None


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

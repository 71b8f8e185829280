"""The downlink sends a phone the difference between a model version and one that it has already.

A delta is computed when the first phone asks for it, off the event loop, and cached with others in bounded
memory. It only ever saves bytes: if anything is missing or damaged on the way, the answer is that there is no
delta, and the phone gets the whole download.
"""

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cachetools import LRUCache
from msgspec.structs import replace

from keyflock_compression import CodecError, content_digest, encode_weights_delta
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.coordinator.single_flight import SingleFlight
from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName
from keyflock_server.protocol.messages import Release
from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.protocol.problems import ApiError
from keyflock_server.releases.model_version import VersionRecord, download_digest
from keyflock_server.storage.errors import StorageError, StorageUnavailable

#: Number of newest versions, and of last steps of the release, that deltas start from; a phone that is
#: further behind gets the whole.
MAX_BASES: Final = 8
#: Maximum wait for a delta, which only saves bytes: many times what it takes to read and compute it. In
#: virtual time the wait has no end: what phones get must not depend on the machine.
MAX_WAIT_S: Final = 5.0
#: Maximum size of all deltas in memory.
MAX_DELTA_BYTES: Final = 33_554_432
#: Size of a cache entry without its body, so that even many entries "there is no delta" are bounded.
_ENTRY_BYTES: Final = 256
_MAX_CACHED_DIGESTS: Final = 256
_RETRY_AFTER: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class ModelDelta:
    """A delta that turns one download into another."""

    #: A container made by ``encode_weights_delta``.
    body: bytes
    #: SHA-256 of the download that it is applied to.
    base: bytes


class _DownloadRef(NamedTuple):
    """Names a download by its version and which of the version's weights it has."""

    version: ModelVersion
    weights: ModelWeights


class _Newest(NamedTuple):
    """What decides which downloads may have deltas."""

    version: ModelVersion
    #: The number of the last step of the release.
    release: int


class Downlink:
    """Computes and caches deltas between downloads, for all populations.

    Args:
        deps: Gives the blobs, and the thread that computes deltas.
        models: Gives the versions.
    """

    def __init__(self, deps: Dependencies, models: ModelStore) -> None:
        self._deps = deps
        self._models = models
        #: Deltas by target's and base's digest; None: the delta is larger than the whole, or impossible.
        self._deltas: LRUCache[tuple[bytes, bytes], bytes | None] = LRUCache(MAX_DELTA_BYTES, _entry_bytes)
        #: Content digests by the download's digest, with the time of the next try; None if unreadable.
        self._content_digests: LRUCache[bytes, tuple[bytes | None, datetime]] = LRUCache(_MAX_CACHED_DIGESTS)
        #: Each population's newest version and release at the last query, and the downloads that may have
        #: deltas.
        self._recent: dict[PopulationName, tuple[_Newest, dict[bytes, _DownloadRef]]] = {}
        #: Until this instant nothing waits for the blob store, which did not answer.
        self._unavailable_until = datetime.min.replace(tzinfo=UTC)
        max_wait_s = MAX_WAIT_S if deps.is_real_time else None
        self._making: SingleFlight[tuple[bytes, bytes], bytes | None] = SingleFlight(max_wait_s)
        self._reading: SingleFlight[bytes, bytes | None] = SingleFlight(max_wait_s)
        #: Held while a delta is computed: two models are in memory for it.
        self._making_lock = asyncio.Lock()
        self._listing_lock = asyncio.Lock()

    async def delta(
        self, name: PopulationName, version: int, weights: ModelWeights, has: Collection[bytes]
    ) -> ModelDelta | None:
        """Return the smallest delta from a download that the phone has; None: it needs the whole.

        Args:
            name: The population.
            version: The version that the phone wants.
            weights: Which of the version's weights it wants.
            has: Digests of downloads that it says it has; anything at all may be among them.
        Edge cases:
            it is not computed within ``MAX_WAIT_S`` -> None; later requests find it
        Raises:
            ApiError: ``model_unknown`` or ``model_withdrawn``.
        """
        record = await self._models.version(name, version)
        target = record.digest_of(weights)
        known = await self._recent_downloads(name)
        bases = [digest for digest in has if digest in known and digest != target]
        # Old targets have no deltas: the work that phones can cause must not grow with the versions.
        if not bases or target not in known:
            return None

        def distance(digest: bytes) -> tuple[int, bool, bytes]:
            base = known[digest]
            return abs(record.version - base.version), base.weights is not weights, digest

        base = min(bases, key=distance)
        pair, wanted = (target, base), _DownloadRef(record.version, weights)
        if pair in self._deltas:
            body = self._deltas[pair]
        elif self._deps.clock() < self._unavailable_until:
            return None
        else:
            body = await self._making.result(pair, lambda: self._make_delta(name, pair, wanted, known[base]))
        return None if body is None else ModelDelta(body, base)

    async def release(self, name: PopulationName, device: DeviceId | None = None) -> Release:
        """Return what a phone's keyboard should serve, with the digest of its content.

        Args:
            name: The population.
            device: See ``ModelStore.released_version``.
        """
        release = await self._models.release(name, device)
        version = await self._models.version(name, release.model_version)
        return replace(release, content_digest=await self.content_digest(version, release.weights))

    async def content_digest(self, record: VersionRecord, weights: ModelWeights) -> bytes | None:
        """Return the digest of a download's decoded content, which a phone may check its model against.

        Edge cases:
            the download is lost, damaged or cannot be reached -> None, and no wait for it in the next half
            minute; it is not read within ``MAX_WAIT_S`` -> None, and no wait until it is: no check-in depends
            on the blob store
        """
        digest, now = record.digest_of(weights), self._deps.clock()
        found, until = self._content_digests.get(digest, (None, now))
        if found is not None:
            return found
        if now < until:
            return None
        return await self._reading.result(digest, lambda: self._read_content_digest(record, weights))

    async def stop(self) -> None:
        """Cancel the deltas and digests that are being computed."""
        await self._making.stop()
        await self._reading.stop()

    async def _read_content_digest(self, record: VersionRecord, weights: ModelWeights) -> bytes | None:
        found = None
        with contextlib.suppress(StorageUnavailable):
            body = await self._read_intact(record, weights)
            found = None if body is None else await self._deps.closing.run(_digest_or_none, body)
        digest = record.digest_of(weights)
        self._content_digests[digest] = found, self._deps.clock() + _RETRY_AFTER
        return found

    async def _recent_downloads(self, name: PopulationName) -> dict[bytes, _DownloadRef]:
        latest = (await self._models.population(name)).latest_version
        newest = _Newest(latest, (await self._models.current_release(name)).sequence)
        async with self._listing_lock:  # a thousand phones that ask at once cost one query
            known = self._recent.get(name)
            if known is None or known[0] != newest:
                known = self._recent[name] = newest, await self._list_recent(name, latest)
        return known[1]

    async def _list_recent(self, name: PopulationName, latest: ModelVersion) -> dict[bytes, _DownloadRef]:
        """Return the downloads of the newest versions, and of those that keyboards serve or just served."""
        found: dict[bytes, _DownloadRef] = {}
        history = await self._deps.store.releases.page(name, None, MAX_BASES)
        served = {version for record in history for version in record.versions}
        for version in sorted(served | set(range(max(0, latest - MAX_BASES + 1), latest + 1))):
            try:
                # Phones may still have a withdrawn version: the newest may be sent as a delta from it.
                record = await self._models.any_version(name, version)
            except ApiError:  # it was pruned
                continue
            for weights in ModelWeights:
                found.setdefault(record.digest_of(weights), _DownloadRef(record.version, weights))
        return found

    async def _make_delta(
        self, name: PopulationName, pair: tuple[bytes, bytes], target: _DownloadRef, base: _DownloadRef
    ) -> bytes | None:
        async with self._making_lock:
            if self._deps.clock() < self._unavailable_until:
                return None
            try:
                made = await self._encode_delta(name, target, base)
            except StorageUnavailable:
                self._unavailable_until = self._deps.clock() + _RETRY_AFTER
                return None
            self._cache_delta(pair, made)
        return made

    async def _encode_delta(
        self, name: PopulationName, target: _DownloadRef, base: _DownloadRef
    ) -> bytes | None:
        try:
            records = [await self._models.any_version(name, one.version) for one in (target, base)]
        except ApiError:  # it was pruned since
            return None
        after = await self._read_intact(records[0], target.weights)
        before = await self._read_intact(records[1], base.weights)
        if after is None or before is None:
            return None
        return await self._deps.closing.run(_encode_if_smaller, after, before)

    async def _read_intact(self, record: VersionRecord, weights: ModelWeights) -> bytes | None:
        """Return a version's download as it was published; None if it is lost or damaged.

        Raises:
            StorageUnavailable: the blob store does not answer now.
        """
        try:
            body = (await self._models.download_of(record, weights)).body
        except StorageUnavailable:
            raise
        except StorageError:
            return None
        digest = await self._deps.closing.run(download_digest, body)
        return body if digest == record.digest_of(weights) else None

    def _cache_delta(self, key: tuple[bytes, bytes], body: bytes | None) -> None:
        with contextlib.suppress(ValueError):  # one that is larger than the whole cache is made each time
            self._deltas[key] = body


def _digest_or_none(body: bytes) -> bytes | None:
    try:
        return content_digest(body)
    except CodecError:
        return None


def _encode_if_smaller(after: bytes, before: bytes) -> bytes | None:
    try:
        delta = encode_weights_delta(after, before)
    except CodecError:
        return None
    return delta if len(delta) < len(after) else None


def _entry_bytes(body: bytes | None) -> int:
    return _ENTRY_BYTES + len(body or b"")

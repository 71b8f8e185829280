"""The store of heads: what a phone puts there, it or the same person's next phone gets back.

A head is a whole personal model in the container of ``keyflock_compression.encode_state``. The server looks
into it to check that it is one, and to answer ``POST /v1/suggestions``; it keeps it encrypted, and logs
nothing of it.
"""

import asyncio
import hmac
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from keyflock_server.heads.erasing import Erasing
from keyflock_server.heads.key_ring import HeadKeys
from keyflock_server.heads.owners import owner_of
from keyflock_server.heads.quota import StoredModelQuota
from keyflock_server.heads.sealing import SealBroken, opened, seal
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import Owner
from keyflock_server.identity.revocations import void_token
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.messages import HeadErased, HeadStored
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.storage.door import Clock, Store, Superseded
from keyflock_server.storage.records import DeviceRecord, HeadRecord
from keyflock_server.telemetry.logs import logger

_log: Final = logger("keyflock.heads")
#: Heads encrypted anew in one pass, so that a rotation does not hold the server up.
_ROTATED_AT_ONCE: Final = 64
_TAG_BYTES: Final = 16


class HeadReader(Protocol):
    """Knows what a head must look like in a population."""

    async def check(self, population: PopulationName, data: bytes) -> None:
        """Raises Refused ``malformed_head`` or ``stale_head`` for anything else."""
        ...


@dataclass(frozen=True, slots=True)
class StoredHead:
    """A head as a phone gets it."""

    data: bytes
    #: Changes with the content: the ETag's inside.
    tag: bytes


class Heads:
    """Everything about heads that outlives a request.

    Args:
        store: Where the rows are.
        keys: Encrypts.
        owner_key: Of the owners' digests, at most 64 bytes.
        erasing: Takes heads away.
        reader: Checks what is put.
        quota: Bounds what all of them take.
        clock: Gives now, aware UTC.
    """

    def __init__(
        self,
        store: Store,
        keys: HeadKeys,
        owner_key: bytes,
        erasing: Erasing,
        reader: HeadReader,
        quota: StoredModelQuota,
        clock: Clock,
    ) -> None:
        self._store = store
        self._keys = keys
        self._owner_key = owner_key
        self._erasing = erasing
        self._reader = reader
        self._quota = quota
        self._clock = clock
        #: Told of each owner whose head is another now.
        self.on_change: Callable[[Owner], None] = lambda _owner: None
        #: How far the pass over heads under retired keys has come, and what it could not read, by key.
        self._rotated_to = ""
        self._unreadable: Counter[str] = Counter()
        self._is_rotated = False

    async def owner(self, identity: DeviceIdentity) -> Owner:
        """Whose heads the phone may read and write; raises Refused."""
        return owner_of(self._owner_key, await self._device(identity.device))

    async def put(self, identity: DeviceIdentity, data: bytes, condition: bytes | None) -> HeadStored:
        """Keep a head; the last writer wins, unless it said what it believes to replace.

        Args:
            identity: The phone.
            data: The head.
            condition: Tag of the head it replaces; empty: there must be none; None: whatever is there.
        Raises:
            Refused: ``malformed_head``; ``stale_head``; ``precondition_failed`` when something else is there;
                ``quota_exceeded``; ``overloaded``.
        """
        device = await self._device(identity.device)
        owner = owner_of(self._owner_key, device)
        await self._reader.check(identity.population, data)
        place = _place(identity.population, owner)
        sealed = await asyncio.to_thread(seal, self._keys.current, place, data)
        record = HeadRecord(
            population=identity.population,
            owner=owner,
            tag=self._tag(place, data),
            key_id=self._keys.current.id,
            sealed=sealed,
            updated_at=self._clock(),
        )
        before_bytes = await self._store.heads.size(identity.population, owner)
        if not device.has_head:
            # First: a phone that never reports must not be deleted from under its head.
            await self._store.devices.set_has_head(device.id)
        try:
            async with self._quota.room_for(len(sealed), before_bytes):
                await self._store.heads.put(record, condition)
        except Superseded:
            raise Refused(
                ProblemCode.PRECONDITION_FAILED,
                "Another phone of this user was faster: get its head, merge, and put again.",
            ) from None
        self.on_change(owner)
        if await self._store.devices.get(identity.device) is None:
            # Forgotten meanwhile: what forget-me has not seen must go as well, unless it is others' too.
            user = device.user_digest
            if user is None or not await self._store.devices.of_users([user]):
                await self._erasing.erase(identity.population, [owner])
            raise void_token()
        return HeadStored(tag=record.tag, size_bytes=len(data))

    async def get(self, identity: DeviceIdentity) -> StoredHead:
        """The head that the person's phones share; raises Refused ``head_unknown``."""
        found = await self.read(identity.population, await self.owner(identity))
        if found is None:
            raise Refused(ProblemCode.HEAD_UNKNOWN, "Nothing is stored for this user in this population.")
        return found

    async def read(self, population: PopulationName, owner: Owner) -> StoredHead | None:
        """An owner's head, decrypted.

        Raises:
            Refused: ``head_unreadable``, fault of the operator; its key is gone, or its bytes were altered.
        """
        record = await self._store.heads.get(population, owner)
        if record is None:
            return None
        return StoredHead(await asyncio.to_thread(self._opened, record), record.tag)

    async def tag(self, population: PopulationName, owner: Owner) -> bytes | None:
        """The tag of an owner's head, which is not decrypted; None when there is none."""
        record = await self._store.heads.get(population, owner)
        return None if record is None else record.tag

    async def delete(self, identity: DeviceIdentity) -> HeadErased:
        """The head is gone from the store and from its files; again is no error."""
        return await self._erasing.erase(identity.population, [await self.owner(identity)])

    async def start(self) -> None:
        """The first pass comes with the first tick."""

    async def stop(self) -> None:
        """Nothing is held."""

    async def tick(self) -> None:
        """Encrypt some heads anew that lie under retired keys."""
        if self._is_rotated:
            return
        old = await self._store.heads.under_other_keys(
            self._keys.current.id, _ROTATED_AT_ONCE, self._rotated_to
        )
        moved = 0
        for record in old:
            moved += await self._reseal(record)
            self._rotated_to = record.owner
        if moved:
            _log.info("heads encrypted anew", heads=moved, key=self._keys.current.id)
        if len(old) < _ROTATED_AT_ONCE:
            self._is_rotated = True
            self._tell_of_rotation()

    async def _reseal(self, record: HeadRecord) -> bool:
        """The head lies under the current key now; False, and counted, if it cannot be read."""
        current = self._keys.current
        try:
            data = await asyncio.to_thread(self._opened, record)
        except Refused:
            self._unreadable[record.key_id] += 1
            return False
        sealed = seal(current, _place(record.population, Owner(record.owner)), data)
        await self._store.heads.reseal(replace(record, key_id=current.id, sealed=sealed), record.sealed)
        return True

    def _tell_of_rotation(self) -> None:
        if self._unreadable:
            _log.error(
                "heads that no key in the ring reads",
                heads=self._unreadable.total(),
                keys=sorted(self._unreadable),
            )
        if self._keys.retired:
            retired = {key.id for key in self._keys.retired}
            if not retired & set(self._unreadable):
                _log.info("no head is under a retired key; their lines may go", key=self._keys.current.id)
            self._erasing.scrub_soon()

    async def _device(self, device: DeviceId) -> DeviceRecord:
        known = await self._store.devices.get(device)
        if known is None:
            raise void_token()
        return known

    def _opened(self, record: HeadRecord) -> bytes:
        key = self._keys.named(record.key_id)
        if key is None:
            raise Refused(
                ProblemCode.HEAD_UNREADABLE,
                f"The head lies under key {record.key_id}, which is not in the ring; put its line back.",
            )
        try:
            return opened(key, _place(record.population, Owner(record.owner)), record.sealed)
        except SealBroken:
            raise Refused(
                ProblemCode.HEAD_UNREADABLE, "The stored head was altered; delete it, and put it again."
            ) from None

    def _tag(self, place: str, data: bytes) -> bytes:
        # Keyed: a digest of the content on the disk would confirm a guess of it.
        return hmac.digest(self._owner_key, place.encode() + b"\n" + data, "sha256")[:_TAG_BYTES]


def _place(population: PopulationName, owner: Owner) -> str:
    return f"{population}\n{owner}"

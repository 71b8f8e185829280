"""Stores personal models: a phone puts one, and it or another phone of the same user gets it back.

A personal model is a container of ``keyflock_compression.encode_state``. The server decodes it to check it,
and to answer ``POST /v1/suggestions``; it stores it encrypted, and logs nothing of it.
"""

import asyncio
import hmac
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import Owner
from keyflock_server.identity.revocations import void_token
from keyflock_server.personal_models.encryption import DecryptionError, decrypt, encrypt
from keyflock_server.personal_models.eraser import PersonalModelEraser
from keyflock_server.personal_models.key_ring import KeyRing
from keyflock_server.personal_models.owners import owner_of
from keyflock_server.personal_models.quota import StoredModelQuota
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.messages import HeadErased, HeadStored
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.clock import Clock
from keyflock_server.storage.errors import PopulationGone, Superseded
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import DeviceRecord, PersonalModelRecord
from keyflock_server.telemetry.logs import logger

_log: Final = logger("keyflock.heads")
#: Number of models encrypted anew in one pass, so that a key rotation does not delay the server.
_ROTATION_BATCH: Final = 64
_TAG_BYTES: Final = 16


class UploadValidator(Protocol):
    """Validates the personal models that phones upload."""

    async def check(self, population: PopulationName, data: bytes) -> bytes:
        """Return the bytes to store: the model without words that may not be learned.

        Raises:
            ApiError: ``malformed_head`` or ``stale_head`` for a model that is not accepted.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoredPersonalModel:
    """A stored personal model, decrypted."""

    data: bytes
    #: The value inside the ETag, which changes with the content.
    tag: bytes


class PersonalModelService:
    """Stores, returns and deletes personal models, and encrypts them anew after a key rotation.

    Args:
        store: Stores the rows.
        key_ring: The keys that encrypt and decrypt.
        owner_key: The key of the owners' digests, at most 64 bytes.
        eraser: Deletes models.
        validator: Checks uploaded models.
        quota: Limits the size of all stored models together.
        clock: Returns the current time, aware UTC.
    """

    def __init__(
        self,
        store: RecordStore,
        key_ring: KeyRing,
        owner_key: bytes,
        eraser: PersonalModelEraser,
        validator: UploadValidator,
        quota: StoredModelQuota,
        clock: Clock,
    ) -> None:
        self._store = store
        self._key_ring = key_ring
        self._owner_key = owner_key
        self._eraser = eraser
        self._validator = validator
        self._quota = quota
        self._clock = clock
        #: Called with each owner whose model was replaced.
        self.on_change: Callable[[Owner], None] = lambda _owner: None
        #: How far the pass over models under retired keys has come, and how many it could not read, by key.
        self._rotated_to = ""
        self._unreadable: Counter[str] = Counter()
        self._is_rotated = False

    async def owner(self, identity: DeviceIdentity) -> Owner:
        """Return the owner whose models the phone may read and write; raises ApiError."""
        return owner_of(self._owner_key, await self._device(identity.device))

    async def put(self, identity: DeviceIdentity, data: bytes, condition: bytes | None) -> HeadStored:
        """Store a personal model; the last writer wins, unless it gives a condition.

        Args:
            identity: The phone.
            data: The encoded model.
            condition: The tag that the stored model must have; empty: there must be none; None: any.
        Raises:
            ApiError: ``malformed_head``; ``stale_head``; ``precondition_failed`` if another model is stored;
                ``quota_exceeded``; ``overloaded``.
        """
        device = await self._device(identity.device)
        owner = owner_of(self._owner_key, device)
        data = await self._validator.check(identity.population, data)
        associated_data = _associated_data(identity.population, owner)
        sealed = await asyncio.to_thread(encrypt, self._key_ring.current, associated_data, data)
        record = PersonalModelRecord(
            population=identity.population,
            owner=owner,
            tag=self._tag(associated_data, data),
            key_id=self._key_ring.current.id,
            sealed=sealed,
            updated_at=self._clock(),
        )
        before_bytes = await self._store.personal_models.size(identity.population, owner)
        if not device.has_head:
            # Before the model is stored: a phone that never reports must not be deleted while it has one.
            await self._store.devices.set_has_head(device.id)
        try:
            async with self._quota.reserve(len(sealed), before_bytes):
                await self._store.personal_models.put(record, condition)
        except PopulationGone:
            raise void_token() from None
        except Superseded:
            raise ApiError(
                ProblemCode.PRECONDITION_FAILED,
                "Another phone of this user was faster: get its head, merge, and put again.",
            ) from None
        self.on_change(owner)
        if await self._store.devices.get(identity.device) is None:
            # Forgotten meanwhile: this model must be deleted, too, unless the user has other phones.
            user = device.user_digest
            if user is None or not await self._store.devices.list_by_users([user]):
                await self._eraser.erase(identity.population, [owner])
            raise void_token()
        return HeadStored(tag=record.tag, size_bytes=len(data))

    async def get(self, identity: DeviceIdentity) -> StoredPersonalModel:
        """Return the model that the user's phones share; raises ApiError ``head_unknown``."""
        found = await self.read(identity.population, await self.owner(identity))
        if found is None:
            raise ApiError(ProblemCode.HEAD_UNKNOWN, "Nothing is stored for this user in this population.")
        return found

    async def read(self, population: PopulationName, owner: Owner) -> StoredPersonalModel | None:
        """Return an owner's model, decrypted; None if there is none.

        Raises:
            ApiError: ``head_unreadable``, fault of the operator; its key is gone, or its bytes were altered.
        """
        record = await self._store.personal_models.get(population, owner)
        if record is None:
            return None
        return StoredPersonalModel(await asyncio.to_thread(self._decrypted, record), record.tag)

    async def tag(self, population: PopulationName, owner: Owner) -> bytes | None:
        """Return the tag of an owner's model without decrypting it; None if there is none."""
        record = await self._store.personal_models.get(population, owner)
        return None if record is None else record.tag

    async def delete(self, identity: DeviceIdentity) -> HeadErased:
        """Delete the model from the store and from its files; it is no error if there is none."""
        return await self._eraser.erase(identity.population, [await self.owner(identity)])

    async def start(self) -> None:
        """Do nothing; the first pass comes with the first tick."""

    async def stop(self) -> None:
        """Do nothing; there is nothing to release."""

    async def tick(self) -> None:
        """Encrypt some models anew that are still under retired keys."""
        if self._is_rotated:
            return
        old = await self._store.personal_models.under_other_keys(
            self._key_ring.current.id, _ROTATION_BATCH, self._rotated_to
        )
        moved = 0
        for record in old:
            moved += await self._reencrypt(record)
            self._rotated_to = record.owner
        if moved:
            _log.info("heads encrypted anew", heads=moved, key=self._key_ring.current.id)
        if len(old) < _ROTATION_BATCH:
            self._is_rotated = True
            self._log_rotation()

    async def _reencrypt(self, record: PersonalModelRecord) -> bool:
        """Encrypt a model under the current key; return False, and count it, if it cannot be read."""
        current = self._key_ring.current
        try:
            data = await asyncio.to_thread(self._decrypted, record)
        except ApiError:
            self._unreadable[record.key_id] += 1
            return False
        sealed = encrypt(current, _associated_data(record.population, Owner(record.owner)), data)
        await self._store.personal_models.reseal(
            replace(record, key_id=current.id, sealed=sealed), record.sealed
        )
        return True

    def _log_rotation(self) -> None:
        if self._unreadable:
            _log.error(
                "heads that no key in the ring reads",
                heads=self._unreadable.total(),
                keys=sorted(self._unreadable),
            )
        if self._key_ring.retired:
            retired = {key.id for key in self._key_ring.retired}
            if not retired & set(self._unreadable):
                _log.info("no head is under a retired key; their lines may go", key=self._key_ring.current.id)
            self._eraser.scrub_soon()

    async def _device(self, device: DeviceId) -> DeviceRecord:
        known = await self._store.devices.get(device)
        if known is None:
            raise void_token()
        return known

    def _decrypted(self, record: PersonalModelRecord) -> bytes:
        key = self._key_ring.find(record.key_id)
        if key is None:
            raise ApiError(
                ProblemCode.HEAD_UNREADABLE,
                f"The head lies under key {record.key_id}, which is not in the ring; put its line back.",
            )
        try:
            return decrypt(key, _associated_data(record.population, Owner(record.owner)), record.sealed)
        except DecryptionError:
            raise ApiError(
                ProblemCode.HEAD_UNREADABLE, "The stored head was altered; delete it, and put it again."
            ) from None

    def _tag(self, associated_data: str, data: bytes) -> bytes:
        # The digest is keyed, because a plain digest of the content would confirm a guess of it.
        return hmac.digest(self._owner_key, associated_data.encode() + b"\n" + data, "sha256")[:_TAG_BYTES]


def _associated_data(population: PopulationName, owner: Owner) -> str:
    return f"{population}\n{owner}"

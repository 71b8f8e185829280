"""A head that is on its way in while its phone is forgotten: it goes too, unless it is others' as well."""

from datetime import UTC, datetime

import pytest
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device
from tests.contract.test_store_contract import EN, POPULATION, VERSION, device, forgotten
from tests.memory_store.store import MemoryStore

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.personal_models.eraser import PersonalModelEraser
from keyflock_server.personal_models.key_ring import EncryptionKey, KeyRing
from keyflock_server.personal_models.quota import StoredModelQuota
from keyflock_server.personal_models.service import PersonalModelService
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.records import PersonalModelRecord
from keyflock_server.telemetry.metrics import Metrics

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class AnyHead:
    """Takes whatever is put."""

    async def check(self, population: str, data: bytes) -> bytes:
        """Take it."""
        del population
        return data


@pytest.mark.fault("D4")
@pytest.mark.parametrize(("sibling_user", "heads_left"), [("ann", 1), ("bob", 0)])
async def test_a_users_head_stays_while_others_of_its_phones_are_there(
    sibling_user: str, heads_left: int
) -> None:
    store = MemoryStore()
    await store.populations.add(POPULATION, VERSION, audit=AUDIT)
    await add_device(store, device("a", "ann"))
    await add_device(store, device("b", sibling_user))
    put = store.personal_models.put

    async def put_and_forget(record: PersonalModelRecord, replaces: bytes | None) -> None:
        await put(record, replaces)
        await forgotten(store, "a")

    store.personal_models.put = put_and_forget  # type: ignore[method-assign]  # forget-me comes in between
    keys = KeyRing(EncryptionKey.of(b"k" * 32))
    quota = StoredModelQuota(store, 1_000_000, lambda: NOW, Metrics())
    heads = PersonalModelService(
        store, keys, b"owner key", PersonalModelEraser(store, lambda: NOW), AnyHead(), quota, lambda: NOW
    )

    with pytest.raises(ApiError) as refused:
        await heads.put(DeviceIdentity(DeviceId("a"), EN), b"head", None)

    assert refused.value.code is ProblemCode.TOKEN_INVALID
    assert len(await store.personal_models.under_other_keys("", 10, "")) == heads_left

"""Values that SQLite takes and PostgreSQL does not: refused for good, and in no message."""

from dataclasses import replace

import pytest
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device
from tests.contract.test_store_contract import POPULATION, VERSION, device

from keyflock_server.storage.errors import StorageError, StorageUnavailable
from keyflock_server.storage.records import DeviceRecord
from keyflock_server.storage.sql.store import SqlStore


@pytest.mark.parametrize(
    "odd",
    [
        replace(device("x"), locale="secret\x00locale"),
        replace(device("x"), app_build=777_777_777_777),
        replace(device("x"), locale="secret" * 40),
    ],
    ids=["nul", "big", "long"],
)
async def test_a_value_that_does_not_fit_is_an_error_that_does_not_quote_it(
    postgres_url: str, odd: DeviceRecord
) -> None:
    store = SqlStore(postgres_url)
    await store.open()
    await store.populations.add(POPULATION, VERSION, audit=AUDIT)

    with pytest.raises(StorageError, match="does not take a value") as refused:
        await add_device(store, odd)
    await store.close()

    assert not isinstance(refused.value, StorageUnavailable)
    assert "secret" not in str(refused.value)
    assert "777" not in str(refused.value)

"""The stores that keep one contract, by name."""

from pathlib import Path

import pytest
from tests.memory_store.store import MemoryStore

from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.sql.store import SqlStore

#: For ``pytest.fixture(params=STORES)``.
STORES = ("memory", "sqlite", "postgres")


def new_store(request: pytest.FixtureRequest, folder: Path) -> RecordStore:
    """An empty store of the kind that the fixture's parameter names; not yet opened."""
    match request.param:
        case "memory":
            return MemoryStore()
        case "sqlite":
            return SqlStore(f"sqlite+aiosqlite:///{folder / 'keyflock.sqlite3'}")
        case _:
            return SqlStore(request.getfixturevalue("postgres_url"))

"""Many rows are read in pages, and whatever ends such a read leaves nothing behind."""

import functools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from keyflock_server.storage.sql.engine import reader_of
from keyflock_server.storage.sql.rows import read_in_pages
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import cluster


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'pages.sqlite3'}")
    await store.open()
    yield store
    await store.close()


def fail(_row: object) -> None:
    raise ValueError("damaged")


async def test_a_read_that_fails_halfway_leaves_no_connection_in_the_past(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyflock_server.storage.sql.rows.PAGE_ROWS", 1)
    for name in ("a", "b", "c"):
        await store.cluster.claim(name, "before")

    with pytest.raises(ValueError, match="damaged") as failure:
        await read_in_pages(reader_of(store._engine), select(cluster), functools.partial(map, fail))
    await store.cluster.replace("c", "before", "after")

    assert await store.cluster.get("c") == "after"
    assert await store.personal_models.scrub()
    del failure  # until here it held what the read was doing, as a log does

"""Erased heads on SQLite: what was in the files is not there any more, whatever became of the row before."""

import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from tests.contract.audits import AUDIT
from tests.contract.test_heads_contract import HEAD
from tests.contract.test_store_contract import EN, POPULATION, VERSION

from keyflock_server.storage.sql import engine
from keyflock_server.storage.sql.store import SqlStore

FILE = "keyflock.sqlite3"
#: How long SQLite would wait by itself, in the test that looks how long a scrub waits.
PATIENT_S = 120
#: From a row within a page to one of many overflow pages, and back: rows that move, grow and shrink.
SIZES = (30_000, 150, 9_000, 60_000, 4_000, 100, 20_000)


async def opened_store(folder: Path) -> SqlStore:
    """Open a store in the folder, with a population."""
    opened = SqlStore(f"sqlite+aiosqlite:///{folder}/{FILE}")
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    return opened


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await opened_store(tmp_path)
    yield opened
    await opened.close()


def stretches(sealed: bytes) -> list[bytes]:
    """Every stretch of it: a page may hold any part, and a stretch may lie across two pages."""
    return [sealed[at : at + 16] for at in range(0, len(sealed) - 16, 16)]


def found(folder: Path, every: list[bytes]) -> dict[str, int]:
    """How many of the stretches each file holds."""
    parts = [part for sealed in every for part in stretches(sealed)]
    contents = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: sum(part in data for part in parts) for name, data in contents.items()}


@pytest.mark.parametrize("is_in_main_file", [False, True])
async def test_no_version_of_an_erased_head_is_in_any_file(
    store: SqlStore, tmp_path: Path, *, is_in_main_file: bool
) -> None:
    rng = Random(1)
    versions = [rng.randbytes(size) for size in SIZES]
    neighbours = [rng.randbytes(12_000) for _ in range(4)]
    before: list[dict[str, int]] = []
    for number, sealed in enumerate(versions):
        await store.personal_models.put(replace(HEAD, sealed=sealed), None)
        if number < len(neighbours):
            await store.personal_models.put(
                replace(HEAD, owner=f"{number}" * 64, sealed=neighbours[number]), None
            )
        if is_in_main_file:
            assert await store.personal_models.scrub()
        before.append(found(tmp_path, [sealed]))

    deleted = await store.personal_models.delete(EN, [HEAD.owner])
    is_scrubbed = await store.personal_models.scrub()

    # Each version was there when it was put, in the file that this is about; else nothing would be proved.
    name = FILE if is_in_main_file else f"{FILE}-wal"
    for sealed, there in zip(versions, before, strict=True):
        assert there[name] > 0.97 * len(stretches(sealed))
    assert (deleted, is_scrubbed) == (1, True)
    after = found(tmp_path, versions)
    assert {FILE, f"{FILE}-wal", f"{FILE}-shm"} <= set(after)
    assert after == dict.fromkeys(after, 0)
    # And nothing else went with it.
    assert found(tmp_path, neighbours)[FILE] > 0.97 * sum(len(stretches(one)) for one in neighbours)


async def test_a_reader_in_the_way_delays_the_proof_and_nobody_elses_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 1_000 * PATIENT_S)
    store = await opened_store(tmp_path)
    sealed = Random(2).randbytes(9_000)
    await store.personal_models.put(replace(HEAD, sealed=sealed), None)
    reader = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    reader.execute("begin")
    reader.execute("select count(*) from heads").fetchall()
    await store.personal_models.delete(EN, [HEAD.owner])
    began = time.monotonic()

    in_the_way = await store.personal_models.scrub()
    waited_s = time.monotonic() - began
    still_there = found(tmp_path, [sealed])[f"{FILE}-wal"]
    reader.execute("rollback")
    reader.close()

    assert in_the_way is False
    # Writers are blocked meanwhile, so it does not wait as long as SQLite would otherwise.
    assert waited_s < PATIENT_S / 2
    assert still_there > 0
    assert await store.personal_models.scrub() is True
    assert sum(found(tmp_path, [sealed]).values()) == 0
    await store.close()

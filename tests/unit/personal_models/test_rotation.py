"""Old heads move under the new key, also past heads that nobody can read any more."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.contract.audits import AUDIT
from tests.contract.test_heads_contract import HEAD
from tests.contract.test_store_contract import EN, POPULATION, VERSION
from tests.memory_store.store import MemoryStore

from keyflock_server.personal_models.encryption import decrypt, encrypt
from keyflock_server.personal_models.eraser import PersonalModelEraser
from keyflock_server.personal_models.key_ring import EncryptionKey, KeyRing
from keyflock_server.personal_models.quota import StoredModelQuota
from keyflock_server.personal_models.service import PersonalModelService
from keyflock_server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    import pytest

NEW, OLD, LOST = (EncryptionKey.of(bytes([number]) * 32) for number in range(3))


def clock() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


async def store_of(heads: dict[str, EncryptionKey]) -> MemoryStore:
    """One head an owner, under this key."""
    store = MemoryStore()
    await store.open()
    await store.populations.add(POPULATION, VERSION, audit=AUDIT)
    for owner, key in heads.items():
        sealed = encrypt(key, f"{EN}\n{owner}", owner.encode())
        await store.personal_models.put(replace(HEAD, owner=owner, key_id=key.id, sealed=sealed), None)
    return store


def heads_in(store: MemoryStore) -> PersonalModelService:
    erasing = PersonalModelEraser(store, clock)
    quota = StoredModelQuota(store, 1_000_000, clock, Metrics())
    return PersonalModelService(store, KeyRing(NEW, (OLD,)), b"owner key", erasing, None, quota, clock)  # type: ignore[arg-type]


async def test_heads_behind_a_page_of_unreadable_ones_are_moved_too(caplog: pytest.LogCaptureFixture) -> None:
    lost = {f"a{number:03}": LOST for number in range(150)}
    store = await store_of({**lost, "b-last": OLD, "a075-between": OLD})
    heads = heads_in(store)

    with caplog.at_level(logging.INFO):
        for _ in range(6):
            await heads.tick()

    for owner in ("b-last", "a075-between"):
        record = await store.personal_models.get(EN, owner)
        assert record is not None
        assert record.key_id == NEW.id
        assert decrypt(NEW, f"{EN}\n{owner}", record.sealed) == owner.encode()
    # What it says is true: 150 are lost, and under the retired key lies nothing any more.
    told = [(record.getMessage(), record.__dict__.get("heads")) for record in caplog.records]
    assert ("heads that no key in the ring reads", 150) in told
    assert any("their lines may go" in message for message, _ in told)


async def test_a_retired_line_may_not_go_while_a_head_under_it_cannot_be_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = await store_of({"whole": OLD})
    await store.personal_models.put(replace(HEAD, owner="altered", key_id=OLD.id, sealed=b"x" * 64), None)
    heads = heads_in(store)

    with caplog.at_level(logging.INFO):
        await heads.tick()
        await heads.tick()

    assert "no key in the ring reads" in caplog.text
    assert "may go" not in caplog.text

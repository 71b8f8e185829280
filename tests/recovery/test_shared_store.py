"""A server over PostgreSQL and S3, as one of several would be: a fleet's rounds, and an outage."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.recovery.load_balanced_exchange import LoadBalancedExchange
from tests.recovery.one_hot_fleet import (
    ROUND_GOAL,
    OneHotTrainer,
    ReceiptLog,
    create_population,
    one_hot_phones,
    task_toml,
)
from tests.services.postgres import PASSWORD, PostgresServer
from tests.services.s3 import CREDENTIALS

from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_client_sim.server_control.operator_access import operator_client
from keyflock_client_sim.server_control.server_process import ServerProcess, running_server
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator.rounds import RoundView
from keyflock_server.storage.blobs import blobs_at
from keyflock_server.storage.sql.store import SqlStore

POPULATION = PopulationName("en")
PHONES = 24
ROUND = "minimum = 8\nover_selection = 0.0\ndeadline_s = 3600.0\nselection_s = 0.5"


@pytest.mark.slow
async def test_a_fleet_makes_model_versions_over_postgresql_and_s3_through_an_outage(
    tmp_path: Path,
    postgres_server: PostgresServer,
    postgres_url: str,
    s3_blobs_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEYFLOCK_DATABASE", postgres_url)
    ledger, exchange = ReceiptLog(), LoadBalancedExchange(random.Random(1), timeout_s=60.0)
    fleet = one_hot_phones(POPULATION, range(PHONES), seed=1)
    driver = RealTimeFleet(fleet, exchange, OneHotTrainer(), listener=ledger.record, drain_s=10.0)
    with running_server(tmp_path / "data", options=["--blobs", s3_blobs_url]) as server:
        async with operator_client(server.admin_url, server.admin_token()) as admin:
            await create_population(admin, POPULATION, task_toml("shared", POPULATION, ROUND))
        await exchange.add("server", server.sdk_url)
        running = asyncio.create_task(driver.run())
        before = await closed_rounds(server, at_least=2)
        await asyncio.to_thread(postgres_server.stop)
        with pytest.raises(Exception, match="does not answer"):
            await closed_rounds(server, at_least=0)
        postgres_server.start()  # in this thread: the server dies with the one that started it
        await closed_rounds(server, at_least=before + 2)
        is_alive = server.is_alive()
        driver.stop()
        await running
        rounds = await settled_rounds(server)
        await exchange.close()
    store, blobs = SqlStore(postgres_url), blobs_at(s3_blobs_url)
    newest = (await store.populations.versions())[-1]
    weights = Checkpoint.from_bytes(await blobs.get(newest.checkpoint_key)).weights
    await store.close()

    log_text = server.log_path.read_text()
    closed = [one for one in rounds if one.phase == "closed"]
    in_model = weights * ROUND_GOAL
    assert is_alive
    assert newest.version == len(closed) >= 4
    # A delta of minus one, averaged over eight, is an eighth in the model: each acknowledged report once.
    np.testing.assert_array_equal(in_model, np.rint(in_model))
    assert in_model.sum() == ROUND_GOAL * len(closed)
    acked = Counter(phone for phone, _ in ledger.acked)
    missing = {phone: acked[phone] - int(in_model[phone]) for phone in range(PHONES)}
    assert sum(missing.values()) == sum(one.counted for one in rounds if one.phase == "collecting")
    assert not (tmp_path / "data" / "keyflock.sqlite3").exists()
    assert not (tmp_path / "data" / "blobs").exists()
    assert PASSWORD not in log_text
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in log_text


async def closed_rounds(server: ServerProcess, *, at_least: int) -> int:
    """How many rounds have closed, once there are so many."""
    async with operator_client(server.admin_url, server.admin_token()) as admin, asyncio.timeout(120.0):
        while True:
            count = sum(one.phase == "closed" for one in await admin.rounds("shared"))
            if count >= at_least:
                return count
            await asyncio.sleep(0.05)


async def settled_rounds(server: ServerProcess) -> list[RoundView]:
    """The rounds, once none of them is between its last report and its version."""
    async with operator_client(server.admin_url, server.admin_token()) as admin, asyncio.timeout(120.0):
        while True:
            rounds = await admin.rounds("shared")
            if all(one.phase in {"closed", "collecting"} for one in rounds):
                return rounds
            await asyncio.sleep(0.05)

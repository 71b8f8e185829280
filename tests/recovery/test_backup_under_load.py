"""A backup that is made while phones report is whole: restored elsewhere, its servers and rounds go on."""

import asyncio
import hashlib
import json
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.recovery.invariants import ExactlyOnceCheck, check_exactly_once
from tests.recovery.load_balanced_exchange import LoadBalancedExchange
from tests.recovery.one_hot_fleet import (
    OneHotTrainer,
    ReceiptLog,
    create_population,
    one_hot_phones,
    task_toml,
)
from tests.recovery.recorded_state import read_recorded_state
from tests.recovery.test_shared_store import closed_rounds
from tests.services.postgres import PostgresServer

from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_client_sim.server_control.operator_access import operator_client
from keyflock_client_sim.server_control.server_process import ServerProcess, running_server
from keyflock_server.protocol.identifiers import PopulationName, RoundId
from keyflock_server.storage.blobs import blobs_at
from keyflock_server.storage.sql.store import SqlStore

POPULATION = PopulationName("en")
PHONES = 24
#: In the restored round some slots belong to phones that have reported elsewhere: its deadline ends it.
ROUND = "minimum = 4\nover_selection = 0.0\ndeadline_s = 20.0\nselection_s = 0.5"
ENDING = {"closing", "merged", "stepped", "published"}


@dataclass(frozen=True)
class InstallationPlace:
    """Where an installation lives."""

    folder: Path
    #: Empty: in the folder.
    database_url: str = ""
    blobs_url: str = ""

    @property
    def options(self) -> list[str]:
        database = ["--database", self.database_url] if self.database_url else []
        return database + (["--blobs", self.blobs_url] if self.blobs_url else [])

    async def command(self, *arguments: str) -> dict[str, Any]:
        """What a ``keyflock`` command answers that works on this installation."""
        options = ("--data-dir", str(self.folder), "--json", *self.options)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "keyflock_server", *arguments, *options), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, arguments
        answer: dict[str, Any] = json.loads(out)
        return answer

    async def exactly_once(
        self, acked: set[tuple[int, RoundId]], receipts: ReceiptLog
    ) -> tuple[ExactlyOnceCheck, int]:
        """Compare receipts, rows and sums; also return how many versions there are, all of them readable."""
        store = SqlStore(self.database_url or f"sqlite:///{self.folder / 'keyflock.sqlite3'}")
        blobs = blobs_at(self.blobs_url or f"file://{self.folder / 'blobs'}")
        recorded = await read_recorded_state(store, blobs, receipts.phones)
        versions = await store.populations.versions()
        for version in versions:
            body = await blobs.get(version.download_key)
            assert hashlib.sha256(body).digest() == version.download_digest
        await store.close()
        return check_exactly_once(acked, recorded), len(versions)


class Fleet:
    """Phones that report to whatever server there is."""

    def __init__(self) -> None:
        self.receipts = ReceiptLog()
        self.exchange = LoadBalancedExchange(random.Random(1), timeout_s=60.0)
        phones = one_hot_phones(POPULATION, range(PHONES), seed=1)
        self.driver = RealTimeFleet(
            phones, self.exchange, OneHotTrainer(), listener=self.receipts.record, drain_s=10.0
        )

    @asynccontextmanager
    async def reporting_to(self, server: ServerProcess, *, rounds: int) -> AsyncIterator[None]:
        """Let the phones report within the block and until so many more rounds have closed."""
        await self.exchange.add("server", server.sdk_url)
        running = asyncio.create_task(self.driver.run())
        yield
        await closed_rounds(server, at_least=rounds + await closed_rounds(server, at_least=0))
        self.driver.stop()
        await running
        async with operator_client(server.admin_url, server.admin_token()) as admin:
            while any(one.phase in ENDING for one in await admin.rounds("shared")):  # noqa: ASYNC110 - it is HTTP
                await asyncio.sleep(0.05)


@pytest.fixture(params=["sqlite", "postgres"])
def places(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[InstallationPlace, InstallationPlace]]:
    """An installation and an empty place: one machine, or PostgreSQL and S3 of which S3 is left."""
    if request.param == "sqlite":
        yield InstallationPlace(tmp_path / "old"), InstallationPlace(tmp_path / "new")
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    blobs = request.getfixturevalue("s3_blobs_url")
    names = [server.create(), server.create()]
    old, new = (server.url(name) for name in names)
    yield InstallationPlace(tmp_path / "old", old, blobs), InstallationPlace(tmp_path / "new", new)
    for name in names:
        server.drop(name)


@pytest.mark.slow
async def test_a_backup_under_load_is_restored_with_exactly_the_reports_of_its_moment(
    places: tuple[InstallationPlace, InstallationPlace], tmp_path: Path
) -> None:
    old, new = places
    fleet, backup = Fleet(), tmp_path / "backup"
    with running_server(old.folder, options=old.options) as server:
        async with operator_client(server.admin_url, server.admin_token()) as admin:
            await create_population(admin, POPULATION, task_toml("shared", POPULATION, ROUND))
        async with fleet.reporting_to(server, rounds=2):
            await closed_rounds(server, at_least=1)
            acked_before = set(fleet.receipts.acked)
            made = await old.command("backup", str(backup), "--with-secrets")
        acked_in_all = set(fleet.receipts.acked)
    restored = await new.command("restore", str(backup))
    check, versions = await new.exactly_once(acked_before, fleet.receipts)

    assert made["blobs"] >= 3
    assert restored["secrets_state"] == "fit"
    assert not restored["needs_upgrade"]
    assert check.violations == ()
    assert check.counted >= len(acked_before) >= 1
    assert versions >= 2

    fleet.receipts.acked.clear()
    with running_server(new.folder, options=new.options) as server:
        async with fleet.reporting_to(server, rounds=1):
            pass
        await fleet.exchange.close()
    again, more_versions = await new.exactly_once(acked_before | fleet.receipts.acked, fleet.receipts)

    assert again.violations == ()
    assert more_versions >= versions + 1
    # The phones are the same, and nobody had to enrol anew.
    assert len(fleet.receipts.phones) == PHONES
    assert len(acked_in_all) > check.counted

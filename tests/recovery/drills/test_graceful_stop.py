"""SIGTERM to a real server with reports under way: it says so, answers, and is gone in time.

With the database well, locked by another program, and hung.
"""

import asyncio
import contextlib
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import aiohttp
import psutil
import pytest
from tests.http.rounds.conftest import TASK, CallAnswer, RoundPhone, RunningServer
from tests.services.postgres import PostgresServer

from keyflock_client_sim.server_control.server_process import ServerProcess, running_server
from keyflock_server.protocol.messages import Assignment
from keyflock_server.protocol.problems import ProblemCode
from keyflock_server.runtime.addresses import Addresses
from keyflock_server.storage.sql.engine import COMMAND_TIMEOUT_S

GRACE_S = 1.0
#: Without a bound of its own a server would wait for the database driver, which gives up after this time.
BOUND_S = COMMAND_TIMEOUT_S
#: One phone's report is never committed alone: it waits for three others.
WAITING = TASK.replace("min_flush_clients = 2", "min_flush_clients = 4").replace("goal = 4", "goal = 8")


@contextlib.asynccontextmanager
async def site_of(server: ServerProcess) -> AsyncIterator[RunningServer]:
    """A population and a task on the server, and a client for it."""
    addresses = Addresses(server.sdk_url, server.admin_url, server.pid)
    async with aiohttp.ClientSession() as session:
        site = RunningServer(addresses, server.data_dir, session)
        assert (await site.create_population())[0] == 201
        assert (await site.create_task(WAITING))[0] == 201
        async with asyncio.timeout(120.0):
            while not (await site.operate("GET", "rounds?task=next-word"))[1]["items"]:
                pass
        yield site


@contextlib.contextmanager
def well(_server: ServerProcess) -> Iterator[None]:
    """Nothing is in the way."""
    yield


@contextlib.contextmanager
def locked(server: ServerProcess) -> Iterator[None]:
    """Another program writes to SQLite and does not come to an end."""
    other = sqlite3.connect(server.data_dir / "keyflock.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


def hung(postgres: PostgresServer) -> Callable[[ServerProcess], AbstractContextManager[None]]:
    """PostgreSQL stops without a word: connections stay, nothing is answered."""

    @contextlib.contextmanager
    def hang(_server: ServerProcess) -> Iterator[None]:
        family = psutil.Process(postgres.pid)
        stopped = [family, *family.children(recursive=True)]
        for one in stopped:
            one.suspend()
        try:
            yield
        finally:
            for one in reversed(stopped):
                one.resume()

    return hang


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["well", "locked", "hung"])
async def test_a_server_with_reports_under_way_stops_in_time_and_tells_its_phones(
    tmp_path: Path, trouble: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYFLOCK_SHUTDOWN_GRACE_S", str(GRACE_S))
    break_it: Callable[[ServerProcess], AbstractContextManager[None]] = well if trouble == "well" else locked
    if trouble == "hung":
        monkeypatch.setenv("KEYFLOCK_DATABASE", request.getfixturevalue("postgres_url"))
        break_it = hung(request.getfixturevalue("postgres_server"))

    with running_server(tmp_path / "data") as server:
        async with site_of(server) as site:
            phones = [await site.phone() for _ in range(5)]
            assigned = [await phone.assigned() for phone in phones]
            with break_it(server):
                # With a database in trouble the fourth report begins a flush that does not end.
                count = 3 if trouble == "well" else 4
                waiting = [
                    asyncio.create_task(phone.report(one, site.delta(one)))
                    for phone, one in list(zip(phones, assigned, strict=True))[:count]
                ]
                await in_flight(site, count)
                slow, writer = await begin_upload(site, phones[4], assigned[4])
                began = time.monotonic()
                psutil.Process(server.pid).send_signal(signal.SIGTERM)
                refused = await refusals_until_gone(site)
                answers = await asyncio.gather(*waiting, return_exceptions=True)
                cut_off = await slow.read()
                writer.close()
                code = await asyncio.to_thread(server._process.wait, BOUND_S)
                took_s = time.monotonic() - began

    assert took_s < BOUND_S
    assert code == 0
    assert refused <= {503}
    # Nobody was told that a report is counted; who was not told at all sends it again.
    codes = {one.code() for one in answers if isinstance(one, CallAnswer)}
    assert codes <= {ProblemCode.NOT_READY, ProblemCode.OVERLOADED, ProblemCode.REPORT_PENDING}
    assert b"200 OK" not in cut_off
    if trouble == "well":
        assert codes == {ProblemCode.NOT_READY}
    else:
        assert refused == {503}  # it takes its time, and turns away whoever comes meanwhile
    log = server.log_path.read_text()
    assert log.count("stopping") == log.count(" stopped ") == 1


async def in_flight(site: RunningServer, count: int) -> None:
    """Wait until the server holds so many reports."""
    async with asyncio.timeout(120.0):
        while True:
            async with site.session.get(site.addresses.admin_url + "/metrics") as response:
                figures = await response.text()
            if f'keyflock_bodies_in_flight{{port="phones"}} {count}.0' in figures:
                return
            await asyncio.sleep(0.02)


async def begin_upload(
    site: RunningServer, phone: RoundPhone, assignment: Assignment
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A report of which only the first byte comes."""
    host, port = site.addresses.sdk_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"PUT /v1/assignments/{assignment.id}/report HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {phone.token}\r\nKeyflock-Assignment: {assignment.token}\r\n"
        "Content-Type: application/msgpack\r\nContent-Length: 5000\r\n\r\n"
    )
    writer.write(head.encode() + b"\x82")
    await writer.drain()
    return reader, writer


async def refusals_until_gone(site: RunningServer) -> set[int]:
    """What the probe says from SIGTERM on; the first answers may still be from before the signal was seen."""
    seen: list[int] = []
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                async with site.session.get(site.addresses.sdk_url + "/readyz") as response:
                    seen.append(response.status)
            except aiohttp.ClientError:
                break
            await asyncio.sleep(0.02)
    first = next((place for place, status in enumerate(seen) if status != 200), len(seen))
    assert 200 not in seen[first:]
    return set(seen[first:])

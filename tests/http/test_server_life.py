"""A server's life: ready only when it is, told to stop, gone in bounded time, never half dead."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from keyflock_server.data_folder import DataFolder
from keyflock_server.http.application import Application
from keyflock_server.http.connections import Connections
from keyflock_server.http.readiness import Readiness, ServerState
from keyflock_server.http.responses import JSON, MSGPACK
from keyflock_server.runtime.addresses import Addresses
from keyflock_server.runtime.heartbeat import Heartbeat
from keyflock_server.runtime.listeners import Listener, ListenError
from keyflock_server.runtime.probes import Probes
from keyflock_server.runtime.server import BackgroundLoopError, PortBinding, Server
from keyflock_server.telemetry.metrics import Metrics


async def not_found(_request: web.BaseRequest) -> web.StreamResponse:
    """What most addresses are."""
    return web.Response(status=404)


async def nothing() -> None:
    """Do nothing."""


@dataclass
class RecordingLifecycle:
    """Records its calls in order."""

    on_tick: Callable[[], Awaitable[None]] = nothing
    on_stop: Callable[[], Awaitable[None]] = nothing
    happened: list[str] = field(default_factory=list)

    async def start(self) -> None:
        self.happened.append("start")

    async def tick(self) -> None:
        if "tick" not in self.happened:
            self.happened.append("tick")
        await self.on_tick()

    async def stop(self) -> None:
        self.happened.append("stop")
        await self.on_stop()


@dataclass
class ServerRun:
    """A server around a recording lifecycle, and what its caller observes."""

    server: Server
    folder: DataFolder
    ready: asyncio.Future[Addresses]

    async def run(self) -> None:
        await self.server.run(self.ready.set_result)


def server_run(
    life: RecordingLifecycle,
    folder: Path,
    *,
    answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    admin_port: int = 0,
    grace_s: float = 5.0,
) -> ServerRun:
    readiness, metrics = Readiness(), Metrics()
    heartbeat = Heartbeat(life.tick, 0.001, metrics)
    probes = Probes(readiness, heartbeat, metrics).by_path(with_metrics=False)
    sdk = Application(answer or not_found, probes, Connections(MSGPACK, metrics, port="phones"))
    admin = Application(not_found, {}, Connections(JSON, metrics, port="operators"))
    opened = DataFolder.open(folder)
    server = Server(
        life,
        opened,
        sdk_port=PortBinding(sdk, host, port),
        admin_port=PortBinding(admin, "127.0.0.1", admin_port),
        readiness=readiness,
        heartbeat=heartbeat,
        shutdown_grace_s=grace_s,
    )
    return ServerRun(server, opened, asyncio.get_running_loop().create_future())


async def test_a_server_that_is_told_to_stop_finishes_what_it_began(tmp_path: Path) -> None:
    working, finish = asyncio.Event(), asyncio.Event()

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        working.set()
        await finish.wait()
        return web.Response(text="done")

    async def flush() -> None:
        finish.set()

    life = RecordingLifecycle(on_stop=flush)
    tried = server_run(life, tmp_path, answer=answer)
    running = asyncio.create_task(tried.run())
    addresses = await tried.ready
    announced = json.loads((tmp_path / "server.json").read_text())

    async with aiohttp.ClientSession() as session:
        in_flight = asyncio.create_task(session.get(addresses.sdk_url + "/work"))
        await working.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        async with await in_flight as response:
            text = await response.text()
    await running

    assert announced == {"sdk_url": addresses.sdk_url, "admin_url": addresses.admin_url, "pid": os.getpid()}
    assert text == "done"
    assert life.happened == ["start", "tick", "stop"]
    assert not (tmp_path / "server.json").exists()
    DataFolder.open(tmp_path).release()


async def test_a_server_stops_in_bounded_time_even_when_its_coordinator_does_not(tmp_path: Path) -> None:
    never = asyncio.Event()

    async def hang() -> None:
        await never.wait()

    tried = server_run(RecordingLifecycle(on_stop=hang), tmp_path, grace_s=0.05)
    running = asyncio.create_task(tried.run())
    await tried.ready

    os.kill(os.getpid(), signal.SIGINT)

    async with asyncio.timeout(120.0):
        await running


async def test_a_background_loop_that_dies_takes_the_server_with_it(tmp_path: Path) -> None:
    async def die() -> None:
        raise RuntimeError("the disk is gone")

    life = RecordingLifecycle(on_tick=die)
    tried = server_run(life, tmp_path)

    with pytest.raises(BackgroundLoopError, match="RuntimeError"):
        await tried.run()
    assert life.happened == ["start", "tick", "stop"]


async def test_a_pass_is_never_cut_in_the_middle(tmp_path: Path) -> None:
    inside, go_on, whole = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def long_pass() -> None:
        inside.set()
        await go_on.wait()
        whole.set()

    tried = server_run(RecordingLifecycle(on_tick=long_pass), tmp_path)
    running = asyncio.create_task(tried.run())
    await inside.wait()

    os.kill(os.getpid(), signal.SIGTERM)
    asyncio.get_running_loop().call_later(0.01, go_on.set)
    await running

    assert whole.is_set()


async def test_a_port_that_is_taken_is_named_and_the_folder_let_go(tmp_path: Path) -> None:
    other = Application(not_found, {}, Connections(MSGPACK, Metrics(), port="phones"))
    taken = await Listener.open(other, "127.0.0.1", 0, shutdown_grace_s=1.0)
    number = int(taken.url.rsplit(":", 1)[1])
    life = RecordingLifecycle()

    with pytest.raises(ListenError, match=f"port {number}: another program has it"):
        await server_run(life, tmp_path, port=number).run()
    await taken.close()

    assert life.happened == []
    DataFolder.open(tmp_path).release()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
        return number


@pytest.mark.fault("F14")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])  # noqa: S104 - what an operator may give
async def test_two_ports_alike_are_told_apart_from_another_program(tmp_path: Path, host: str) -> None:
    number, life = free_port(), RecordingLifecycle()

    with pytest.raises(ListenError) as refused:
        await server_run(life, tmp_path, host=host, port=number, admin_port=number).run()

    assert "another program" not in str(refused.value)
    assert f"port {number}: it is this server's port for phones" in str(refused.value)
    assert "--admin-port" in str(refused.value)
    assert life.happened == []
    DataFolder.open(tmp_path).release()


@pytest.mark.fault("F14")
async def test_a_taken_port_of_operators_is_still_another_programs(tmp_path: Path) -> None:
    other = Application(not_found, {}, Connections(MSGPACK, Metrics(), port="phones"))
    taken = await Listener.open(other, "127.0.0.1", 0, shutdown_grace_s=1.0)
    number = int(taken.url.rsplit(":", 1)[1])

    with pytest.raises(ListenError, match=f"port {number}: another program has it"):
        await server_run(RecordingLifecycle(), tmp_path, admin_port=number).run()
    await taken.close()


@pytest.mark.fault("F14")
async def test_a_terminal_that_closes_stops_a_server_like_sigterm(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    life = RecordingLifecycle()
    tried = server_run(life, tmp_path)
    running = asyncio.create_task(tried.run())
    await tried.ready

    os.kill(os.getpid(), signal.SIGHUP)

    async with asyncio.timeout(120.0):
        await running
    signal.signal(signal.SIGHUP, before)
    assert life.happened[-1] == "stop"
    assert not (tmp_path / "server.json").exists()


@pytest.mark.fault("F14")
async def test_under_nohup_a_terminal_that_closes_changes_nothing(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        tried = server_run(RecordingLifecycle(), tmp_path)
        running = asyncio.create_task(tried.run())
        await tried.ready

        os.kill(os.getpid(), signal.SIGHUP)

        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert not running.done()
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_server_whose_loop_hangs_is_neither_ready_nor_healthy() -> None:
    now_s = 0.0
    readiness, metrics = Readiness(), Metrics()
    heartbeat = Heartbeat(nothing, 1.0, metrics, monotonic=lambda: now_s)
    probes = Probes(readiness, heartbeat, metrics).by_path(with_metrics=True)
    served = Application(not_found, probes, Connections(JSON, metrics, port="operators"))
    listener = await Listener.open(served, "127.0.0.1", 0, shutdown_grace_s=1.0)

    async def probe() -> list[int]:
        async with aiohttp.ClientSession(listener.url) as session:
            statuses = []
            for path in ("/healthz", "/readyz", "/metrics"):
                async with session.get(path) as response:
                    statuses.append(response.status)
            return statuses

    starting = await probe()
    readiness.state = ServerState.READY
    ready = await probe()
    now_s = 61.0
    stalled = await probe()
    await listener.close()

    assert starting == [200, 503, 200]
    assert ready == [200, 200, 200]
    assert stalled == [503, 503, 200]

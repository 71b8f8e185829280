"""A real server whose files cannot grow, its log's included: it stays, says no, and goes on later."""

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.http.rounds.conftest import CallAnswer, RunningServer
from tests.recovery.drills.test_graceful_stop import site_of

from keyflock_client_sim.server_control.server_process import ServerProcess, running_server
from keyflock_server.protocol import wire
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.problems import ProblemCode


def limit_files(server: ServerProcess, size_bytes: int) -> None:
    """The kernel lets no file of the process grow beyond so many bytes."""
    process = psutil.Process(server.pid)
    _, hard = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (size_bytes, hard))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_FSIZE"), reason="only Linux sets limits of another process")
async def test_a_full_disk_costs_no_acknowledged_report_and_no_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYFLOCK_ACK_WAIT_S", "0.5")
    with running_server(tmp_path / "data") as server:
        async with site_of(server) as site:
            phones = [await site.phone() for _ in range(8)]
            work = [await phone.assigned() for phone in phones]

            async def report_all() -> list[CallAnswer]:
                return await asyncio.gather(
                    *(
                        phone.report(one, site.delta(one, 0.5))
                        for phone, one in zip(phones, work, strict=True)
                    )
                )

            limit_files(server, 1)
            full = await report_all()
            newcomer = await site.enrol()
            limit_files(server, psutil.RLIM_INFINITY)
            freed = await report_all()
            async with asyncio.timeout(60.0):
                while {one.status for one in freed} != {200}:
                    freed = await report_all()
                while (closed := await first_round(site))["phase"] != "closed":
                    pass
            is_alive = server.is_alive()

    assert {one.code() for one in full} <= {ProblemCode.REPORT_PENDING, ProblemCode.OVERLOADED}
    assert newcomer.code() is ProblemCode.OVERLOADED
    assert is_alive
    assert all(wire.decode(one.body, Receipt).counted for one in freed)
    assert closed["counted"] == 8


async def first_round(site: RunningServer) -> Any:  # noqa: ANN401 - JSON
    """As operators see it."""
    return (await site.operate("GET", "rounds?task=next-word"))[1]["items"][-1]

"""A real server whose files cannot grow, its log's included: it stays, says no, and goes on later."""

import asyncio
import resource
import sys
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


#: Starts a command whose files cannot grow beyond so many bytes.
_LIMITED = (
    "import os, resource, sys; size = int(sys.argv[1]); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)); "
    "os.execv(sys.executable, [sys.executable, '-m', 'keyflock_server', *sys.argv[2:]])"
)


async def run_command(*arguments: str, max_file_bytes: int = resource.RLIM_INFINITY) -> tuple[int, list[str]]:
    """Run a ``keyflock`` command, and return its exit code and what it says of errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _LIMITED, str(max_file_bytes), *arguments),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    _, err = await process.communicate()
    return process.returncode or 0, err.decode().splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a folder where nobody may write")
async def test_a_backup_that_cannot_be_finished_leaves_nothing_and_the_server_goes_on(tmp_path: Path) -> None:
    data, backups = tmp_path / "data", tmp_path / "backups"
    backups.mkdir()
    whole = str(backups / "whole")
    with running_server(data) as server:
        async with site_of(server) as site:
            options = ("--data-dir", str(data))
            full = await run_command("backup", str(backups / "full"), *options, max_file_bytes=1)
            read_only = await run_command("backup", "/sys/kernel/keyflock-backup", *options)
            inside = await run_command("backup", str(data / "backup"), *options)
            left = [path.name for path in backups.iterdir()], (data / "backup").exists()
            phone = await site.phone()
            work = await phone.assigned()
            made = await run_command("backup", whole, *options)
            verified = await run_command("backup", "verify", whole)
            is_alive = server.is_alive()
    new = tmp_path / "new"
    restored_full = await run_command("restore", whole, "--data-dir", str(new), max_file_bytes=1)
    has_database = (new / "keyflock.sqlite3").exists()
    restored = await run_command("restore", whole, "--data-dir", str(new))

    assert (full[0], read_only[0], inside[0], restored_full[0]) == (7, 7, 1, 7)
    assert [len(one[1]) for one in (full, read_only, inside, restored_full)] == [1] * 4
    assert "/sys/kernel/keyflock-backup cannot be written: " in read_only[1][0]
    assert f"is in the data folder {data}" in inside[1][0]
    assert left == ([], False)
    assert is_alive
    assert work is not None
    assert (made[0], verified[0], restored[0]) == (0, 0, 0)
    assert not has_database

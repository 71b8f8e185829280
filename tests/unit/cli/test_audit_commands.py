"""``keyflock audit``: lists and shows changes, and verifies the log over the API or in the database."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, update
from tests.contract.audits import AUDIT
from tests.contract.test_operators_contract import TOKEN
from tests.unit.cli.test_command_line import CommandResult, StandInAdminPort, admin_port, run, token_file

from keyflock_server.data_folder import DATABASE_FILE
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import audit_log

__all__ = ["admin_port", "run", "token_file"]  # fixtures

ENTRY = {
    "sequence": 7,
    "at": "2026-03-01T12:00:00Z",
    "operator": "ann",
    "role": "operator",
    "action": "task.pause",
    "subject_kind": "task",
    "subject": "t",
    "population": "en",
    "reason": "the night",
}
HEAD = f"7:{'ab' * 32}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder whose log has three entries, and over which no server runs."""

    async def fill() -> None:
        store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / DATABASE_FILE}")
        await store.open()
        for number in range(3):
            token = replace(TOKEN, id=f"k{number}", digest=bytes([number]) * 32)
            await store.api_tokens.add(token, audit=AUDIT)
        await store.close()

    asyncio.run(fill())
    return tmp_path


def tamper(data: Path) -> None:
    async def change() -> None:
        store = SqlStore(f"sqlite+aiosqlite:///{data / DATABASE_FILE}")

        def write(connection: Connection) -> None:
            connection.execute(update(audit_log).where(audit_log.c.sequence == 2).values(operator="eve"))

        await store._transactions.run(write)
        await store.close()

    asyncio.run(change())


def test_changes_are_asked_for_by_what_was_given(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps({"items": [ENTRY], "next": None}).encode()

    ran = run(
        *("audit", "list", "--operator", "ann", "--kind", "task", "--since", "2026-03-01"),
        *("--url", admin_port.url, "--token-file", token_file),
    )

    path = admin_port.asked[0][1]
    assert path == (
        "/admin/v1/audit?limit=100&operator=ann&subject_kind=task&since=2026-03-01T00%3A00%3A00%2B00%3A00"
    )
    assert "the night" in ran.out


def test_a_change_is_shown_with_what_it_changed(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    detail = ENTRY | {
        "changes": [{"path": "status", "before": "active", "after": "paused"}],
        "before": {"status": "active"},
        "after": {"status": "paused"},
        "previous_digest": "00",
        "digest": "11",
    }
    admin_port.answer = json.dumps(detail).encode()

    ran = run("audit", "show", "7", "--url", admin_port.url, "--token-file", token_file)

    assert admin_port.asked[0][1] == "/admin/v1/audit/7"
    assert ["status", "active", "paused"] in [line.split() for line in ran.out.splitlines()]


def test_a_whole_log_is_verified_by_the_server_and_its_head_is_printed(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps({"head": HEAD, "broken": None, "is_complete": True}).encode()

    ran = run("audit", "verify", "--known", HEAD, "--url", admin_port.url, "--token-file", token_file)

    assert ran.code == 0
    assert admin_port.asked[0][1].startswith("/admin/v1/audit/verification?limit=1000&known=7%3A")
    assert HEAD in ran.out


def test_a_log_that_the_server_finds_broken_ends_the_command_with_the_entry(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    broken = {"sequence": 8, "kind": "missing", "detail": "After 7 comes 9."}
    admin_port.answer = json.dumps({"head": HEAD, "broken": broken, "is_complete": True}).encode()

    ran = run("audit", "verify", "--url", admin_port.url, "--token-file", token_file)

    assert ran.code == 8
    assert "broken at entry 8: missing. After 7 comes 9." in ran.err


@pytest.mark.parametrize("option", ["--data-dir", "--database"])
def test_without_a_server_the_database_itself_is_verified(
    run: Callable[..., CommandResult], data: Path, option: str
) -> None:
    place = str(data) if option == "--data-dir" else f"sqlite+aiosqlite:///{data / DATABASE_FILE}"

    whole = run("audit", "verify", option, place, "--json")
    head = json.loads(whole.out)["head"]
    again = run("audit", "verify", option, place, "--known", head)
    tamper(data)
    broken = run("audit", "verify", option, place)

    assert (whole.code, again.code, broken.code) == (0, 0, 8)
    assert head.startswith("3:")
    assert "3 entries" in again.out
    assert "broken at entry 2: changed" in broken.err


def test_a_head_that_is_none_is_refused(run: Callable[..., CommandResult], data: Path) -> None:
    ran = run("audit", "verify", "--data-dir", str(data), "--known", "7")

    assert ran.code == 2
    assert "--known: A head is a number, a colon and 64 hexadecimal digits." in ran.err

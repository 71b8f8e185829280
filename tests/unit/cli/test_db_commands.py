"""``keyflock db``: schema and retention, from the command line."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.test_schema_upgrades import released
from tests.services.postgres import PASSWORD
from tests.unit.cli.test_command_line import CommandResult, run

from keyflock_server.data_folder import DataFolder
from keyflock_server.identity.keys import load_or_create_owner_key
from keyflock_server.storage.sql.engine import engine_for

__all__ = ["run"]  # the fixture
Run = Callable[..., CommandResult]


def test_an_empty_database_gets_the_newest_schema_and_says_so(run: Run, postgres_url: str) -> None:
    before = run("db", "version", "--database", postgres_url, "--json")
    done = run("db", "upgrade", "--database", postgres_url, "--json")
    again = run("db", "upgrade", "--database", postgres_url)

    assert json.loads(before.out)["database"] is None
    assert json.loads(done.out) == {"before": None, "after": json.loads(before.out)["release"]}
    assert again.out.endswith("already\n")


def test_a_data_folder_that_a_server_holds_is_not_upgraded(run: Run, tmp_path: Path) -> None:
    held = DataFolder.open(tmp_path)
    (tmp_path / "keyflock.sqlite3").touch()

    refused = run("db", "upgrade", "--data-dir", str(tmp_path))
    held.release()
    taken = run("db", "upgrade", "--data-dir", str(tmp_path))

    assert (refused.code, taken.code) == (7, 0)
    assert "in use by another server" in refused.err


@pytest.mark.parametrize("command", ["version", "upgrade", "prune", "adopt-blobs", "forget-keys"])
def test_a_database_that_is_not_there_is_not_made(run: Run, tmp_path: Path, command: str) -> None:
    ran = run("db", command, "--data-dir", str(tmp_path))

    assert ran.code == 5
    assert "There is no database" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_in_no_message(run: Run, postgres_url: str) -> None:
    wrong = postgres_url.replace(f":{PASSWORD}@", f":{PASSWORD}-wrong@")
    nowhere = f"postgresql+asyncpg://keyflock:{PASSWORD}@127.0.0.1:1/keyflock"
    unknown = f"mysql://keyflock:{PASSWORD}@127.0.0.1/keyflock"
    broken = f"postgresql://keyflock:{PASSWORD}@127.0.0.1:port/keyflock"

    ran = [run("db", "version", "--database", url) for url in (wrong, nowhere, unknown, broken)]

    assert [one.code for one in ran] == [7, 7, 7, 7]
    assert "password authentication failed" in ran[0].err
    assert "cannot be used now" in ran[1].err
    assert all("URL is not understood" in one.err for one in ran[2:])
    assert not any(PASSWORD in one.err + one.out for one in ran)


def test_pruning_says_what_would_go(run: Run, postgres_url: str, tmp_path: Path) -> None:
    run("db", "upgrade", "--database", postgres_url)

    ran = run(
        "db", "prune", "--database", postgres_url, "--blobs", f"file://{tmp_path}", "--dry-run", "--json"
    )

    assert json.loads(ran.out) == {
        "assignments": 0,
        "devices": 0,
        "heads": 0,
        "versions": 0,
        "blobs": 0,
        "blob_bytes": 0,
        "is_dry_run": True,
    }


@pytest.mark.fault("D2")
def test_users_names_become_digests_with_the_key_of_the_data_folder(
    run: Run, postgres_url: str, tmp_path: Path
) -> None:
    asyncio.run(released(postgres_url, "0002"))
    asyncio.run(run_sql(postgres_url, "UPDATE devices SET \"user\" = 'somebody''s own long name'"))
    load_or_create_owner_key(tmp_path)

    refused = run("db", "upgrade", "--database", postgres_url)
    empty = run("db", "upgrade", "--database", postgres_url, "--data-dir", str(tmp_path / "empty"))
    done = run("db", "upgrade", "--database", postgres_url, "--data-dir", str(tmp_path), "--json")

    assert (refused.code, empty.code, done.code) == (7, 7, 0)
    assert "Give --data-dir too" in refused.err
    assert "somebody" not in refused.err + empty.err
    assert json.loads(done.out)["before"] == "0002"


async def run_sql(url: str, statement: str) -> None:
    engine = engine_for(url)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(statement)
    await engine.dispose()

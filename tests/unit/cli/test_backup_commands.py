"""``keyflock backup`` and ``keyflock restore``, from the command line: codes, lines, and one JSON object."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.backups.installation import SmallInstallation, sqlite_url
from tests.unit.cli.test_command_line import CommandResult, one_line, run

from keyflock_server.identity.server_secrets import secrets_in

__all__ = ["run"]  # the fixture
Run = Callable[..., CommandResult]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder of a small installation, with its secrets."""

    async def fill() -> None:
        installation = SmallInstallation(tmp_path / "data", sqlite_url(tmp_path / "data"))
        await installation.start()
        await installation.stop()

    asyncio.run(fill())
    secrets_in(tmp_path / "data")
    return tmp_path / "data"


def test_a_backup_is_made_verified_and_restored(run: Run, data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"

    made = run("backup", backup, "--data-dir", data, "--with-secrets", "--json")
    verified = run("backup", "verify", backup, "--json")
    restored = run("restore", backup, "--data-dir", tmp_path / "new", "--json")
    shown = run("db", "version", "--data-dir", tmp_path / "new")

    assert [one.code for one in (made, verified, restored, shown)] == [0, 0, 0, 0]
    answer = json.loads(made.out)
    assert answer == json.loads(verified.out)
    assert (answer["devices"], answer["secrets"]) == (4, ["admin_token", "owner_key", "signing_key"])
    more = {name: value for name, value in json.loads(restored.out).items() if name not in answer}
    assert more.keys() == {"store_id", "secrets_state", "needs_upgrade"}
    assert (more["secrets_state"], more["needs_upgrade"]) == ("fit", False)
    assert (tmp_path / "new" / "keyflock.sqlite3").stat().st_mode & 0o077 == 0


def test_people_are_told_what_is_not_in_a_backup_and_what_a_restore_lost(
    run: Run, data: Path, tmp_path: Path
) -> None:
    made = run("backup", "create", tmp_path / "backup", "--data-dir", data)
    verified = run("backup", "verify", tmp_path / "backup")
    restored = run("restore", tmp_path / "backup", "--data-dir", tmp_path / "new")

    assert made.out.splitlines()[-1].startswith("no secrets are in it: keep signing_key and owner_key")
    assert verified.out.splitlines()[-1] == "the backup is whole"
    assert "later reports are lost" in restored.out


def test_what_cannot_be_done_is_said_in_one_line_with_a_code(run: Run, data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    run("backup", backup, "--data-dir", data)

    again = run("backup", backup, "--data-dir", data)
    nowhere = run("backup", tmp_path / "b", "--data-dir", tmp_path / "nothing")
    whose = run("backup", tmp_path / "b", "--database", sqlite_url(data), "--with-secrets")
    nothing = run("restore", tmp_path / "nothing", "--data-dir", tmp_path / "new")
    taken = run("restore", backup, "--data-dir", data)

    assert [one.code for one in (again, nowhere, whose, nothing, taken)] == [1, 5, 2, 5, 1]
    assert "name a new folder" in one_line(again)
    assert "There is no database" in one_line(nowhere)
    assert "Whose secrets?" in one_line(whose)
    assert "is no backup" in one_line(nothing)
    assert "Nothing was changed" in one_line(taken)


def test_a_damaged_backup_is_named_file_by_file(run: Run, data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    run("backup", backup, "--data-dir", data)
    (backup / "database.sqlite3").write_bytes(b"not a database")

    verified = run("backup", "verify", backup)
    restored = run("restore", backup, "--data-dir", tmp_path / "new")

    assert (verified.code, restored.code) == (8, 8)
    assert verified.err.splitlines()[1].startswith("  database.sqlite3: has 14 bytes, and had")


def test_a_backup_under_way_is_told_to_who_prunes(run: Run, data: Path) -> None:
    async def hold() -> None:
        installation = SmallInstallation(data, sqlite_url(data))
        await installation.store.leases.acquire("backup", "another", 300.0, installation.harness.now)
        await installation.store.close()

    asyncio.run(hold())

    ran = run("db", "prune", "--data-dir", data)

    assert ran.code == 1
    assert "A backup of this database is being made" in one_line(ran)


def test_the_help_of_backup_names_both_commands(run: Run) -> None:
    shown = run("backup", "--help")

    assert shown.code == 0
    assert "keyflock backup DEST" in shown.out
    assert all(name in shown.out for name in ("create", "verify"))

"""A damaged SQLite file is detected at start and while it is used, and is left as it is."""

import itertools
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.audits import AUDIT
from tests.contract.test_store_contract import EN, POPULATION, VERSION, device

from keyflock_server.storage.errors import StorageDamaged
from keyflock_server.storage.sql.integrity import check_sqlite
from keyflock_server.storage.sql.store import SqlStore

pytestmark = pytest.mark.fault("D16")

PAGE = 4_096


async def a_database(folder: Path, devices: int = 2_000) -> Path:
    """Create a database of some hundred pages."""
    file = folder / "keyflock.sqlite3"
    store = SqlStore(f"sqlite+aiosqlite:///{file}")
    await store.open()
    await store.populations.add(POPULATION, VERSION, audit=AUDIT)
    await store.close()
    with sqlite3.connect(file) as rows:
        one = device("a")
        rows.executemany(
            "INSERT INTO devices (id, population, app_build, locale, enrolled_at, last_seen_at) "
            "VALUES (?, ?, 1, 'en', ?, ?)",
            [
                (f"{number:064}", EN, one.enrolled_at.isoformat(" "), one.last_seen_at.isoformat(" "))
                for number in range(devices)
            ],
        )
    rows.close()
    return file


def overwritten(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(data)


def a_page_in_the_middle(file: Path) -> None:
    overwritten(file, file.stat().st_size // PAGE // 2 * PAGE, b"\xa5" * PAGE)


def a_page_of_zeros(file: Path) -> None:
    overwritten(file, file.stat().st_size // PAGE // 3 * PAGE, bytes(PAGE))


def the_header(file: Path) -> None:
    overwritten(file, 0, b"\x00" * 100)


def the_end_cut_off(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2 // PAGE * PAGE)


def another_kind_of_file(file: Path) -> None:
    file.write_bytes(b"a letter, and no database" * 1_000)


DAMAGES = [a_page_in_the_middle, a_page_of_zeros, the_header, the_end_cut_off, another_kind_of_file]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_a_damaged_file_does_not_start_and_is_left_as_it_is(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    file = await a_database(tmp_path)
    damage(file)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}  # noqa: ASYNC240 - nothing else runs

    for ask in ("exists", "open"):
        store = SqlStore(f"sqlite+aiosqlite:///{file}")
        with pytest.raises(StorageDamaged, match="restore database and blobs from the backup"):
            await getattr(store, ask)()
        await store.close()

    assert file.read_bytes() == before[file.name]


async def test_a_sound_file_opens_and_all_of_it_was_checked(tmp_path: Path) -> None:
    file = await a_database(tmp_path)
    unchecked: list[str] = []
    store = SqlStore(f"sqlite+aiosqlite:///{file}")
    store.on_unchecked = lambda name, _within_s: unchecked.append(name)

    assert await store.exists()
    await store.open()

    assert await store.devices.count(EN) == 2_000
    assert unchecked == []
    await store.close()


async def test_a_check_that_takes_too_long_ends_and_says_that_it_saw_a_part(tmp_path: Path) -> None:
    file = await a_database(tmp_path)
    now_s = itertools.count(step=3_600)

    assert check_sqlite(file, "sqlite", max_check_s=600.0, monotonic=lambda: next(now_s)) is False
    a_page_in_the_middle(file)
    assert check_sqlite(file, "sqlite", max_check_s=600.0, monotonic=lambda: next(now_s)) is False


async def test_damage_that_is_come_upon_later_is_told_as_such(tmp_path: Path) -> None:
    file = await a_database(tmp_path)
    store = SqlStore(f"sqlite+aiosqlite:///{file}")
    await store.open()
    for page in range(3, file.stat().st_size // PAGE):
        overwritten(file, page * PAGE, b"\xa5" * PAGE)

    with pytest.raises(StorageDamaged, match="malformed"):
        await store.devices.page(EN, None, 2_000)
    await store.close()


def a_log(folder: Path, transactions: int = 6) -> tuple[Path, Path]:
    """A database as a process that was killed left it: with a write-ahead log."""
    source, file = folder / "source.sqlite3", folder / "keyflock.sqlite3"
    rows = sqlite3.connect(source, isolation_level=None)
    rows.execute("PRAGMA journal_mode=WAL")
    rows.execute("PRAGMA wal_autocheckpoint=0")
    rows.execute("CREATE TABLE acknowledged (number INTEGER, report BLOB)")
    for number in range(transactions):
        rows.execute("INSERT INTO acknowledged VALUES (?, zeroblob(3000))", (number,))
    for end in ("", "-wal"):
        shutil.copy(f"{source}{end}", f"{file}{end}")
    rows.close()
    return file, folder / "keyflock.sqlite3-wal"


def numbers_in(file: Path) -> list[int]:
    rows = sqlite3.connect(file)
    found = [row[0] for row in rows.execute("SELECT number FROM acknowledged ORDER BY number")]
    rows.close()
    return found


def test_a_log_that_is_whole_is_no_damage_and_is_kept_for_whoever_opens_the_file(tmp_path: Path) -> None:
    file, log = a_log(tmp_path)
    before = log.read_bytes()

    assert check_sqlite(file, "sqlite")

    assert log.read_bytes() == before
    assert numbers_in(file) == [0, 1, 2, 3, 4, 5]


def test_a_log_whose_last_transaction_is_torn_is_what_a_power_cut_leaves(tmp_path: Path) -> None:
    file, log = a_log(tmp_path)
    size = log.stat().st_size

    overwritten(log, size - 2_000, b"\xa5" * 100)
    with_a_torn_end = check_sqlite(file, "sqlite")
    with log.open("r+b") as opened:
        opened.truncate(size - 2_000)

    assert with_a_torn_end
    assert check_sqlite(file, "sqlite")


@pytest.mark.parametrize("at", [4, 16, 24, 32 + 24 + PAGE + 24 + 100], ids=str)
def test_a_log_that_is_damaged_before_its_end_would_lose_what_was_acknowledged(
    tmp_path: Path, at: int
) -> None:
    file, log = a_log(tmp_path)

    overwritten(log, at, b"\xa5" * 8)

    with pytest.raises(StorageDamaged, match="write-ahead log"):
        check_sqlite(file, "sqlite")


def test_what_an_emptied_log_still_holds_of_earlier_ones_is_no_damage(tmp_path: Path) -> None:
    source = sqlite3.connect(tmp_path / "source.sqlite3", isolation_level=None)
    source.execute("PRAGMA journal_mode=WAL")
    source.execute("CREATE TABLE acknowledged (number INTEGER, report BLOB)")
    for number in range(20):
        source.execute("INSERT INTO acknowledged VALUES (?, zeroblob(3000))", (number,))
    source.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    source.execute("INSERT INTO acknowledged VALUES (20, NULL)")
    file = tmp_path / "keyflock.sqlite3"
    for end in ("", "-wal"):
        shutil.copy(f"{tmp_path / 'source.sqlite3'}{end}", f"{file}{end}")
    source.close()

    assert check_sqlite(file, "sqlite")
    assert numbers_in(file) == list(range(21))

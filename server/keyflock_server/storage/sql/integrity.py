"""The check of a SQLite file for damage, before a server begins to work on it.

SQLite finds a damaged page only when it reads that page, which may be days later and in the middle of a
round. It takes a damaged write-ahead log for one that ends there, so acknowledged data would be lost
silently.

Source: https://www.sqlite.org/pragma.html#pragma_quick_check, https://www.sqlite.org/fileformat2.html
(section 4, the write-ahead log), https://www.sqlite.org/walformat.html (its index).
"""

import contextlib
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from keyflock_server.storage.errors import StorageDamaged
from keyflock_server.storage.sql.failures import damaged, is_damage, unavailable

#: SQLite's heading of a list of problems.
_HEADING: Final = "*** in database main ***\n"
#: Maximum duration of the check; a gigabyte takes about a second. A start is not delayed for longer.
MAX_CHECK_S: Final = 20.0
#: Steps of SQLite's virtual machine between two readings of the clock.
_STEPS: Final = 10_000
_WAL_HEADER: Final = struct.Struct(">8I")
_FRAME_HEADER: Final = struct.Struct(">4I8x")
#: The magic numbers of a log, with the byte order of its checksums.
_MAGIC: Final = {0x377F0682: "<6I", 0x377F0683: ">6I"}
#: The place in the log's index of the number of whole frames, in the machine's own byte order.
_MX_FRAME: Final = (16, struct.Struct("=I"))
#: Allowed number of frames that end a transaction behind the last whole frame. A power cut may leave one in
#: part; each earlier one was on the disk before the next one began.
_LAST_TORN: Final = 1


def check_sqlite(
    file: Path,
    name: str,
    *,
    max_check_s: float = MAX_CHECK_S,
    monotonic: Callable[[], float] = time.monotonic,
) -> bool:
    """Check a database's file and its write-ahead log within a time limit; nothing is changed.

    Args:
        file: The database's file.
        name: The name of the database for messages.
        max_check_s: The time limit, seconds; what was not checked until then is left unchecked.
        monotonic: A clock in seconds that never goes back.
    Returns:
        Whether all of it was checked.
    Raises:
        StorageDamaged: fault of the machine; a page or the log is damaged, or the file is no database.
        StorageUnavailable: the file cannot be read now.
    """
    until = monotonic() + max_check_s
    log = file.with_name(f"{file.name}-wal")
    before = _transactions_of(log, name)
    # A read-only connection changes neither the log nor a damaged page, even when it is closed.
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as connection:
            connection.set_progress_handler(lambda: monotonic() > until, _STEPS)
            # The walk over the pages is one step of the virtual machine; only an interrupt ends it.
            late = threading.Timer(max_check_s, connection.interrupt)
            late.daemon = True
            late.start()
            try:
                found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(1)")]
            finally:
                late.cancel()
                late.join()
            _check_log(file, log, name, before)
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_INTERRUPT:
            return False
        raise (damaged if is_damage(error) else unavailable)(name, error) from None
    if monotonic() > until:
        return False  # an interrupted check may report problems that are none
    if found != ["ok"]:
        raise damaged(name, ValueError(" ".join(found).replace(_HEADING, "")))
    return True


def _transactions_of(log: Path, name: str) -> tuple[bytes, list[int]]:
    """Return the log's salts, and the numbers of its frames that end a transaction; empty without a log."""
    try:
        with log.open("rb") as opened:
            head = opened.read(_WAL_HEADER.size)
            size = os.fstat(opened.fileno()).st_size
            if size <= _WAL_HEADER.size:
                return b"", []  # it was just made, and is empty
            magic, _, page_bytes, _, *_ = _WAL_HEADER.unpack(head)
            if magic not in _MAGIC or _checksum(head, _MAGIC[magic]) != _WAL_HEADER.unpack(head)[6:]:
                raise _damaged_log(log, name)
            salts, ends, frame_bytes = head[16:24], [], 24 + page_bytes
            for number in range(1, (size - _WAL_HEADER.size) // frame_bytes + 1):
                frame = os.pread(opened.fileno(), 24, _WAL_HEADER.size + (number - 1) * frame_bytes)
                _, pages_after, *_ = _FRAME_HEADER.unpack(frame)
                if frame[8:16] == salts and pages_after:
                    ends.append(number)
            return salts, ends
    except FileNotFoundError:
        return b"", []
    except OSError as error:
        raise unavailable(name, error) from None


def _check_log(file: Path, log: Path, name: str, before: tuple[bytes, list[int]]) -> None:
    """Compare what was in the log with how far SQLite has read it; raises StorageDamaged."""
    salts, ends = before
    at, number = _MX_FRAME
    try:
        with file.with_name(f"{file.name}-shm").open("rb") as index:
            (whole,) = number.unpack(os.pread(index.fileno(), number.size, at))
        is_same_log = _salts(log) == salts
    except (OSError, struct.error):
        return  # there is no log, or another process has just emptied it
    beyond = [end for end in ends if end > whole]
    if is_same_log and len(beyond) > _LAST_TORN:
        raise _damaged_log(log, name)


def _salts(log: Path) -> bytes:
    with log.open("rb") as opened:
        return opened.read(_WAL_HEADER.size)[16:24]


def _checksum(head: bytes, words: str) -> tuple[int, int]:
    first = second = 0
    numbers = struct.unpack(words, head[:24])
    for even, odd in zip(numbers[::2], numbers[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def _damaged_log(log: Path, name: str) -> StorageDamaged:
    return damaged(name, ValueError(f"its write-ahead log {log.name} is broken before its end"))

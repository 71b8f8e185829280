"""Whether a SQLite file can be read as what was written, looked at before a server begins to work on it.

SQLite finds a damaged page when it comes upon it, which may be days later and in the middle of a round; and
it takes a damaged write-ahead log for one that ends there, so that what was acknowledged is silently gone.

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

from keyflock_server.storage.door import StorageDamaged
from keyflock_server.storage.sql.failures import damaged, is_damage, unavailable

#: Before what is wrong.
_HEADING: Final = "*** in database main ***\n"
#: Longest check; a gigabyte takes about a second. A start is not put off for longer.
MAX_CHECK_S: Final = 20.0
#: Steps of SQLite's virtual machine between two looks at the clock.
_STEPS: Final = 10_000
_WAL_HEADER: Final = struct.Struct(">8I")
_FRAME_HEADER: Final = struct.Struct(">4I8x")
#: Magic of a log whose checksums are of little-endian words, and of big-endian ones.
_MAGIC: Final = {0x377F0682: "<6I", 0x377F0683: ">6I"}
#: Where the index of the log says how many frames are whole; in the machine's own byte order.
_MX_FRAME: Final = (16, struct.Struct("=I"))
#: Frames beyond the last whole one that end a transaction. One may be the last, that a power cut let through
#: in part; each before it was on the disk before the next one began.
_LAST_TORN: Final = 1


def check_sqlite(
    file: Path,
    name: str,
    *,
    max_check_s: float = MAX_CHECK_S,
    monotonic: Callable[[], float] = time.monotonic,
) -> bool:
    """Check a database's file and its write-ahead log, for so long at most; nothing is changed.

    Args:
        file: The database's.
        name: What it is called in messages.
        max_check_s: After it what was not looked at is left unchecked.
        monotonic: A clock in seconds that never goes back.
    Returns:
        Whether all of it was looked at.
    Raises:
        StorageDamaged: fault of the machine; a page or the log is damaged, or it is no database.
        StorageUnavailable: it cannot be read now.
    """
    until = monotonic() + max_check_s
    log = file.with_name(f"{file.name}-wal")
    before = _transactions_of(log, name)
    # Read only: neither the log nor a damaged page is touched, also when the connection is closed.
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as connection:
            connection.set_progress_handler(lambda: monotonic() > until, _STEPS)
            # The walk over the pages themselves is one step of the machine, and hears of this alone.
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
        return False  # what a check that was cut off says may be for that alone
    if found != ["ok"]:
        raise damaged(name, ValueError(" ".join(found).replace(_HEADING, "")))
    return True


def _transactions_of(log: Path, name: str) -> tuple[bytes, list[int]]:
    """The log's salts, and the numbers of its frames that end a transaction; of a log that is there."""
    try:
        with log.open("rb") as opened:
            head = opened.read(_WAL_HEADER.size)
            size = os.fstat(opened.fileno()).st_size
            if size <= _WAL_HEADER.size:
                return b"", []  # it was just made, and holds nothing
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
    """Compare what was in the log with how far SQLite has read it."""
    salts, ends = before
    at, number = _MX_FRAME
    try:
        with file.with_name(f"{file.name}-shm").open("rb") as index:
            (whole,) = number.unpack(os.pread(index.fileno(), number.size, at))
        is_same_log = _salts(log) == salts
    except (OSError, struct.error):
        return  # there is no log, or somebody has just emptied it
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

"""A fleet of up to a million phones in seconds: one phone enrols over HTTP, the others are its copies.

A copy is what enrolment makes, with another id: the row of the enrolled phone in the server's database, and
its token with the id replaced and signed anew with the server's key. So nothing here knows what else is in a
row or in a token, and a fleet fits any release of the server. A token that is signed anew without another id
is the server's own, byte for byte; otherwise nothing is copied.

Copy while the server is stopped: it may keep in memory what it knows of its devices.
"""

import base64
import hashlib
import hmac
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from keyflock_server.protocol.identifiers import DeviceId

DATABASE_FILE: Final = "keyflock.sqlite3"
_KEY_FILE: Final = "signing_key"
#: Copies enrolled long ago, contributed some days ago, and were last seen within the day.
_ENROLLED_AGO: Final = timedelta(days=30)
_CONTRIBUTED_AGO: Final = timedelta(days=3)
_SEEN_AGO: Final = (timedelta(hours=2), timedelta(hours=22))


class NotCopied(RuntimeError):
    """The phone cannot be copied; the message says why."""


@dataclass(frozen=True, slots=True)
class EnrolledPhone:
    """A phone that has enrolled over HTTP."""

    device: DeviceId
    token: str


def clone_phone(data_dir: Path, phone: EnrolledPhone, count: int, *, seed: int = 0) -> list[bytes]:
    """Add ``count`` copies of a phone to a stopped server's SQLite database, and return their tokens.

    Raises:
        NotCopied: the server has no such phone, or its tokens are made in another way than is known here.
    """
    ids = _new_ids(phone, count, seed)
    tokens = clone_tokens(data_dir, phone, ids)
    with closing(sqlite3.connect(data_dir / DATABASE_FILE)) as database:
        cursor = database.execute("SELECT * FROM devices WHERE id = ?", (phone.device,))
        names = [column[0] for column in cursor.description]
        row = cursor.fetchone()
        if row is None:
            raise NotCopied(f"no device {phone.device} is in the database")
        marks = ", ".join("?" * len(names))
        with database:
            # The ids are sorted: the table grows at its end.
            database.executemany(
                f"INSERT INTO devices ({', '.join(names)}) VALUES ({marks})",  # noqa: S608 - the table's own columns
                _rows(dict(zip(names, row, strict=True)), ids, seed),
            )
    return tokens


def clone_tokens(data_dir: Path, phone: EnrolledPhone, ids: Sequence[DeviceId]) -> list[bytes]:
    """Return the tokens of copies with these ids; raises like ``clone_phone``."""
    head, payload, signature = phone.token.encode("ascii").split(b".")
    claims, secret = _from_base64url(payload), _signing_secret(data_dir)
    own = phone.device.encode("ascii")
    if _signature(secret, head + b"." + payload) != signature or claims.count(own) != 1:
        raise NotCopied("the token is not signed, or does not name its device, in the way that is known here")
    before, after = claims.split(own)
    unsigned = [head + b"." + _base64url(before + one.encode("ascii") + after) for one in ids]
    return [one + b"." + _signature(secret, one) for one in unsigned]


def _new_ids(phone: EnrolledPhone, count: int, seed: int) -> list[DeviceId]:
    """Return ids as long as the phone's, sorted."""
    size = -(-len(phone.device) // 2)
    drawn = np.random.default_rng([seed, *phone.device.encode()]).bytes(size * count).hex()
    width = 2 * size
    return sorted(DeviceId(drawn[at : at + len(phone.device)]) for at in range(0, width * count, width))


def _rows(row: dict[str, Any], ids: Sequence[DeviceId], seed: int) -> Iterator[tuple[Any, ...]]:
    now = datetime.now(UTC).replace(tzinfo=None)
    row |= {
        "enrolled_at": _as_text(now - _ENROLLED_AGO),
        "last_contributed_at": _as_text(now - _CONTRIBUTED_AGO),
    }
    latest, earliest = (ago.total_seconds() for ago in _SEEN_AGO)
    ago_s = np.random.default_rng(seed).uniform(latest, earliest, len(ids)).tolist()
    for device, seen_ago_s in zip(ids, ago_s, strict=True):
        row |= {"id": device, "last_seen_at": _as_text(now - timedelta(seconds=seen_ago_s))}
        yield tuple(row.values())


def _as_text(at: datetime) -> str:
    return at.isoformat(" ", "microseconds")


def _signing_secret(data_dir: Path) -> bytes:
    first = (data_dir / _KEY_FILE).read_text(encoding="ascii").split()[0]
    return _from_base64url(first.encode("ascii"))


def _signature(secret: bytes, signed: bytes) -> bytes:
    return _base64url(hmac.digest(secret, signed, hashlib.sha256))


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _from_base64url(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))

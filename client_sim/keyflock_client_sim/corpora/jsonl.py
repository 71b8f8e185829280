"""A corpus file has one JSON object a line, ``{"user": ..., "messages": [...]}``, plain or gzip.

An error names a bad line by file, number and reason; it never repeats the line's content, because that is
somebody's text.
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Final, cast

import msgspec

from keyflock_client_sim.corpora.text import CorpusError, UserText

#: A line longer than this is not a user but an accident (or an attack on memory).
MAX_LINE_BYTES: Final = 64 * 1024 * 1024


class _Line(msgspec.Struct, frozen=True):
    user: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    messages: list[str]


def read_jsonl(path: Path) -> tuple[UserText, ...]:
    """Read the users of a ``.jsonl`` or ``.jsonl.gz`` file, in the file's order.

    Edge cases:
        blank line -> skipped; unknown fields -> ignored; the same user twice -> an error, not two users
        a user without messages -> kept, with no text
        gzip is recognised by its first two bytes, whatever the file is called; a byte order mark is no text

    Raises:
        CorpusError: ``FILE:LINE: reason`` for a bad line, ``FILE: reason`` for a file that cannot be read.
    """
    users: dict[str, UserText] = {}
    try:
        with _opened(path) as lines:
            for number, line in _numbered(path, lines):
                user = _parsed(path, number, line)
                if user.user in users:
                    raise CorpusError(f"{path}:{number}: a user of this name came before; users are unique")
                users[user.user] = user
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(f"{path}: not a whole gzip file ({error})") from error
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror or error}") from error
    if not users:
        raise CorpusError(f"{path}: no users in it")
    return tuple(users.values())


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path)) if is_gzip else path.open("rb")


def _numbered(path: Path, lines: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := lines.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > MAX_LINE_BYTES:
            raise CorpusError(f"{path}:{number}: longer than {MAX_LINE_BYTES} bytes")
        if line.strip():
            yield number, line


def _parsed(path: Path, number: int, line: bytes) -> UserText:
    try:
        parsed = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}:{number}: {_reason(error)}") from error
    return UserText(parsed.user, tuple(parsed.messages))


def _reason(error: Exception) -> str:
    # msgspec's messages name types, paths and byte positions and quote no text; a codec's error does quote,
    # so it gets a message of our own.
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


_DECODER: Final = msgspec.json.Decoder(_Line)

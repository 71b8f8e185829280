"""Jobs and answers cross the pipe between the pool and a worker as frames: a length and a pickle.

Pickle is safe here: both ends are one program of one version and the pipe is private to them; data from a
network never takes this way.
"""

import asyncio
import pickle
import struct
from dataclasses import dataclass
from typing import IO, Final

_LENGTH: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Done:
    """A job's answer."""

    answer: object


@dataclass(frozen=True, slots=True)
class Raised:
    """The exception of a job, as text: the exception itself may not survive pickling."""

    #: The exception's type and message on one line.
    summary: str
    #: The traceback in the worker, for a log.
    details: str


def to_frame(value: object) -> bytes:
    """Return a value as bytes that begin with their length."""
    body = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def read_body(pipe: IO[bytes]) -> bytes:
    """Return the next value's bytes from a blocking pipe; ``value_of`` makes the value.

    Raises:
        EOFError: The other end is gone.
    """
    return _exactly(pipe, _LENGTH.unpack(_exactly(pipe, _LENGTH.size))[0])


def value_of(body: bytes) -> object:
    """Return the value of a frame's body."""
    value: object = pickle.loads(body)  # noqa: S301 - written by our own process at the pipe's other end
    return value


async def receive(stream: asyncio.StreamReader) -> object:
    """Return the next value from a stream.

    Raises:
        asyncio.IncompleteReadError: The other end is gone.
    """
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    return value_of(await stream.readexactly(length))


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data

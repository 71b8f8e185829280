"""Turns an exception into fields of a log line: what failed and where, never the data involved.

A library's message may quote the data that it failed on: the body, the header, the row. So an exception is
logged by its type, the types of its causes, and the frames that it passed through. Its message is logged only
if its class says by ``is_loggable`` that the message is ours and quotes nothing. Error numbers of the
operating system and of the database come from closed lists and are logged, too.
"""

import os
import traceback
from itertools import islice
from pathlib import PurePath
from types import TracebackType
from typing import Final

_MAX_CAUSES: Final = 5
_MAX_FRAMES: Final = 12


def failure_fields(error: BaseException) -> dict[str, object]:
    """Return the fields that describe an exception."""
    chain = _chain(error)
    fields: dict[str, object] = {"error": " from ".join(_type_name(one) for one in chain)}
    if where := " < ".join(filter(None, (frames(one.__traceback__) for one in chain))):
        fields["where"] = where
    for one in chain:
        if isinstance(one, OSError) and isinstance(one.errno, int):
            fields.setdefault("errno", f"{one.errno} {os.strerror(one.errno)}")
        if isinstance(state := getattr(one, "sqlstate", None), str) and len(state) == 5:
            fields.setdefault("sqlstate", state)
        if isinstance(name := getattr(one, "sqlite_errorname", None), str):
            fields.setdefault("sqlite_error", name)
        if getattr(type(one), "is_loggable", False) is True:
            fields.setdefault("detail", str(one))
    return fields


def frames(trace: TracebackType | None) -> str:
    """Return the frames of a traceback, outermost first: file, line and function, no line of source."""
    walked = traceback.walk_tb(trace)
    found = [place(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in walked]
    return " > ".join(found[-_MAX_FRAMES:])


def place(path: str, line: int, function: str) -> str:
    """Return a place in the code: the last parts of its file's path, the line, the function."""
    return f"{'/'.join(PurePath(path).parts[-2:])}:{line} {function}"


def _chain(error: BaseException) -> list[BaseException]:
    """Return the exception and its causes, each once."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain and len(chain) < _MAX_CAUSES:
        chain.append(following)
        if following.__cause__ is not None or following.__suppress_context__:
            following = following.__cause__
        else:
            following = following.__context__
    return chain


def _type_name(error: BaseException) -> str:
    name = type(error).__name__
    if isinstance(error, BaseExceptionGroup):
        inner = ", ".join(_type_name(one) for one in islice(error.exceptions, _MAX_CAUSES))
        return f"{name}({inner})"
    return name

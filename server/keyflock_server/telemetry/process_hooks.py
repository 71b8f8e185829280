"""Sends what the interpreter writes to standard error through the log's pipeline, too.

By itself the interpreter prints uncaught exceptions with their message, and warnings with a line of source.
"""

from __future__ import annotations

import sys
import threading
import warnings
from types import TracebackType
from typing import Final, TextIO

from keyflock_server.telemetry.failure_fields import failure_fields, place
from keyflock_server.telemetry.logs import logger

_log: Final = logger("keyflock.process")


def log_uncaught() -> None:
    """Log uncaught exceptions, unraisable ones and warnings of this whole process as types and places.

    Only a program may call this, never a library, because it changes the whole process.
    """
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable
    warnings.showwarning = _warning


def _uncaught(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _log.critical("the process failed", exc_info=error)


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        _log.error("a thread failed", exc_info=args.exc_value)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    failure = {} if args.exc_value is None else failure_fields(args.exc_value)
    _log.error("an error could not be raised", **failure)


def _warning(
    message: Warning | str,  # noqa: ARG001 - it may quote anything
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - it goes to the log
    line: str | None = None,  # noqa: ARG001 - no source is shown
) -> None:
    _log.warning("a library warns", error=category.__name__, where=place(filename, lineno, ""))

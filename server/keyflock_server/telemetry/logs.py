"""Structured logs: one event per line, as JSON or for a console; no line contains input from a client.

Events go through the standard library's loggers under ``keyflock``, so a program that embeds a server handles
them like any other logs; ``keyflock serve`` configures them by ``configure_logs``.

Redaction uses an allow-list, at every level. Of our own events it passes the fields of
``log_fields.LOGGED_FIELDS``, and of an exception the fields of ``failure_fields``; ``logger`` does that
itself, before any handler sees the event. Of other libraries' records (whose messages, arguments and
tracebacks may quote input) it passes the logger, the level, the exception's type, and the place in the code.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import IO, Any, Final

import structlog

from keyflock_server.telemetry.failure_fields import failure_fields, place
from keyflock_server.telemetry.log_context import request_fields
from keyflock_server.telemetry.log_fields import REDACTED, loggable
from keyflock_server.telemetry.log_options import LogFormat, LogLevel

OWN_LOGGER: Final = "keyflock"
#: The event that replaces the message of another library's record.
LIBRARY_EVENT: Final = "a library's message is left out"
#: The attributes of every record; all other attributes are an event's fields.
_RECORD_ATTRIBUTES: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return the event with the fields that may be logged, its exception as fields; a structlog processor."""
    fields = dict(event)
    fields.pop("stack_info", None)
    error = _exception(fields.pop("exc_info", None))
    failure = {} if error is None else failure_fields(error)
    return loggable({**request_fields(), **fields, **failure})


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger whose methods take an event and its key-value pairs, and log the allowed fields."""
    bound: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            redact,
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return bound


def configure_logs(log_format: LogFormat, level: LogLevel, stream: IO[str] | None = None) -> None:
    """Send this process's logs, those of libraries included, through one redacting pipeline.

    Args:
        log_format: ``json`` for machines, ``console`` for people.
        level: Events below it are dropped. Libraries' records, of which only the place is written, are logged
            from WARNING on, or all of them at DEBUG.
        stream: Where lines go; None is standard error.
    Guarantees:
        Handlers that a library has installed before are removed, and a record that cannot be written is
        dropped: the standard library would print it with its arguments.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=(stream or sys.stderr).isatty())
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_RecordFormatter(renderer))
    for other in logging.root.manager.loggerDict.values():
        if isinstance(other, logging.Logger):
            other.handlers, other.propagate = [], True
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel("WARNING" if level == "INFO" else level)
    logging.getLogger(OWN_LOGGER).setLevel(level)
    logging.raiseExceptions = False


class _RecordFormatter(logging.Formatter):
    """Writes a record as a line: our own with its fields, another library's with its place in the code."""

    def __init__(self, renderer: structlog.typing.Processor) -> None:
        super().__init__()
        self._renderer = renderer

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; it never contains the record's arguments or its exception's message."""
        if _is_own(record.name):
            text = record.msg if isinstance(record.msg, str) and not record.args else REDACTED
            fields = {**_extra(record), "event": text, "exc_info": record.exc_info}
        else:
            fields = {
                "where": place(record.pathname, record.lineno, record.funcName),
                "event": LIBRARY_EVENT,
                "exc_info": record.exc_info,
            }
        event = redact(None, "", fields)
        event["level"], event["logger"] = record.levelname.lower(), record.name
        event["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        return str(self._renderer(None, record.levelname.lower(), event))


def _is_own(name: str) -> bool:
    return name == OWN_LOGGER or name.startswith(f"{OWN_LOGGER}.")


def _extra(record: logging.LogRecord) -> Mapping[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _RECORD_ATTRIBUTES}


def _exception(exc_info: object) -> BaseException | None:
    """Return the exception of an event, from any of the forms that ``exc_info`` allows."""
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, _):
            return error
        case True:
            return sys.exc_info()[1]
        case _:
            return None

"""Structured logs: one event a line, JSON or for a console, and in no line anything that was sent to us.

Events go through the standard library's loggers under ``keyflock``, so a program that embeds a server decides
as it always does what becomes of them; ``keyflock serve`` decides by ``configure_logs``.

Redaction is by structure, at every level, and it lists what may pass. Of our own events: the fields of
``log_fields.LOGGED_FIELDS``, and of an exception what ``failure_fields`` keeps; that happens in ``logger``
itself, before any handler sees the event. Of everybody else's (libraries quote what they choke on, in
messages, arguments and tracebacks): which logger, the level, the exception's type, and where in the code.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import IO, Any, Final, Literal

import structlog

from keyflock_server.telemetry.failure_fields import failure_fields, place
from keyflock_server.telemetry.log_fields import REDACTED, loggable

LogFormat = Literal["json", "console"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

OWN_LOGGER: Final = "keyflock"
#: The event of a record that another library wrote.
LIBRARY_EVENT: Final = "a library's message is left out"
#: What every record has; what else it has are an event's fields.
_RECORD_ATTRIBUTES: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return the event with the fields that may be logged, its exception as fields; a structlog processor."""
    fields = dict(event)
    fields.pop("stack_info", None)
    error = _exception(fields.pop("exc_info", None))
    failure = {} if error is None else failure_fields(error)
    return loggable({**fields, **failure})


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger whose methods take an event and its key-value pairs, and pass on what may be logged."""
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
        level: Events below it are dropped. Libraries, of whose messages only the place is written, are heard
            from WARNING on, and below that only at DEBUG.
        stream: Where lines go; None is standard error.
    Guarantees:
        A library that was given a handler of its own before loses it, and a record that cannot be written is
        dropped: the standard library would print it, arguments and all.
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
    """Writes a record as a line: our own by its fields, another's by where it comes from."""

    def __init__(self, renderer: structlog.typing.Processor) -> None:
        super().__init__()
        self._renderer = renderer

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; neither the record's arguments nor its exception's text are ever looked at."""
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
    """Return the exception that an event tells of, whichever way it was given."""
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, _):
            return error
        case True:
            return sys.exc_info()[1]
        case _:
            return None

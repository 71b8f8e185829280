"""Structured logs: one event a line, JSON or for a console, with what must not be there taken out.

Events go through the standard library's loggers under ``keyflock``, so a program that embeds a server decides
as it always does what becomes of them; ``keyflock serve`` decides by ``configure_logs``.

Redaction is the last gate, not the rule: nobody passes a secret or a body to a log in the first place. It
works on names (``token=...``), on kinds (bytes become their length) and on shapes (anything that looks like a
token inside a text, a traceback included).
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import IO, Any, Final, Literal

import structlog

LogFormat = Literal["json", "console"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

_SECRET_NAMES: Final = frozenset(
    {
        "admin_token",
        "assignment_token",
        "attestation",
        "authorization",
        "body",
        "delta",
        "evidence",
        "headers",
        "key",
        "messages",
        "password",
        "secret",
        "signing_key",
        "text",
        "token",
        "user",
    }
)
_REDACTED: Final = "[redacted]"
#: A JSON web token, or what follows the word Bearer.
_TOKEN: Final = re.compile(r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|(?<=Bearer )[\w.~+/=-]+")


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The event without secrets, bodies and raw bytes; a structlog processor."""
    for name, value in event.items():
        event[name] = _REDACTED if name in _SECRET_NAMES else _without_secrets(value)
    return event


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose methods take an event and its key-value pairs."""
    bound: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return bound


def configure_logs(log_format: LogFormat, level: LogLevel, stream: IO[str] | None = None) -> None:
    """Send this process's logs, those of libraries included, through one redacting pipeline.

    Args:
        log_format: ``json`` for machines, ``console`` for people.
        level: Events below it are dropped.
        stream: Where lines go; None is standard error.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=(stream or sys.stderr).isatty())
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.stdlib.ExtraAdder(),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)


def _without_secrets(value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        return _TOKEN.sub(_REDACTED, value)
    if isinstance(value, dict):
        return {
            name: _REDACTED if name in _SECRET_NAMES else _without_secrets(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return value

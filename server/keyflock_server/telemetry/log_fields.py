"""The fields that a log line may have, and the values that they may hold: everything else is redacted.

The lists have what our own code logs: names of populations, tasks and rounds that were looked up and found,
closed lists (calls, codes, phases, causes), numbers, and sentences that we wrote ourselves. No listed field
ever holds input from a phone, a device's id or a token. A test searches the code for fields that are not
listed, and for listed ones that nothing logs; docs/logs.md is written from them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

REDACTED: Final = "[redacted]"
#: A longer value is neither a name nor a number.
MAX_VALUE_CHARS: Final = 300
MAX_ITEMS: Final = 20

#: Fields that the pipeline itself adds to every line.
PIPELINE_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "event": "What happened: a fixed sentence of the code.",
        "level": "`debug`, `info`, `warning`, `error` or `critical`.",
        "logger": "The part of the program, or the library.",
        "timestamp": "When, UTC, ISO 8601.",
    }
)
#: Fields of every line that is logged while a request is answered.
REQUEST_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "request": "The server's own id of the request; the operators' port returns it as `X-Request-Id`.",
        "round_id": "The id of the round that the request is about, from a token that this server signed.",
        "task": "The id of the task: the request's, as `round_id`, or the event's own.",
    }
)
#: Fields about failures: types, places, error numbers, and the messages of our own exceptions.
FAILURE_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "error": "The types of an exception and of its causes.",
        "errno": "The operating system's number and words for it.",
        "where": "The places in the code that it came through, outermost first.",
        "sqlstate": "The database's code.",
        "sqlite_error": "SQLite's name for it.",
        "detail": "A sentence of ours that quotes nothing but our own numbers.",
        "repeated": "How often the same was left out since it was last logged, at most once a minute.",
    }
)
#: Fields of single events.
EVENT_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "action": "What a step of a release did.",
        "age_s": "How old it is, in seconds.",
        "blob": "A blob's key.",
        "blobs": "Where blobs are, without keys and passwords.",
        "call": "The name of a call, from the table of calls.",
        "candidate": "The version that a release tries.",
        "code": "The code of a problem document.",
        "count": "How many.",
        "days_left": "Days until a certificate ends.",
        "database": "Which database, without a password.",
        "devices": "A number of devices.",
        "duration_s": "How long it took, in seconds.",
        "grace_s": "The time that was given, in seconds.",
        "heads": "A number of stored personal models.",
        "incident": "What the caller was told: the request's id.",
        "key": "The id of the head key that is used now.",
        "keys": "The ids of head keys that are missing.",
        "kind": "What is wrong with a request that cannot be read.",
        "limit": "The process's limit of open files.",
        "max_bytes": "The most bytes that are allowed.",
        "max_connections": "The most connections that are allowed.",
        "min_flush_clients": "The task's setting.",
        "nearest": "The name of a variable that is read, and likest to this one.",
        "part": "A part of the server beside the rounds.",
        "percent": "Percent of the devices that are served the candidate.",
        "phase": "How a round ended.",
        "phones": "A number of phones.",
        "population": "A population's id, or the name under which an operator asked for it.",
        "port": "`phones` or `operators`.",
        "replica": "The id of this process among its replicas, new at each start.",
        "reports": "A number of reports.",
        "reserved": "Open files that are kept for other things.",
        "round": "A round's number within its task.",
        "size_bytes": "Its size.",
        "stored_bytes": "Bytes that are stored.",
        "to": "The version that was gone back to.",
        "variable": "The name of an environment variable, never its value.",
        "verdict": "What was said of a report.",
        "version": "A model version.",
        "wanted": "What a setting asks for.",
        "within_s": "The time that a check was given, in seconds.",
    }
)

LOGGED_FIELDS: Final = frozenset({*PIPELINE_FIELDS, *REQUEST_FIELDS, *FAILURE_FIELDS, *EVENT_FIELDS})
#: Fields that may be longer: a traceback's frames, a sentence of ours.
_LONG: Final = frozenset({"where", "detail", "event"})
_MAX_LONG_CHARS: Final = 8_000


def loggable(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that may be logged as they are, and the names of the others marked as redacted.

    A field whose name is not an ASCII identifier is dropped: the name may be user input.
    """
    return {
        name: _loggable_value(name, value) if name in LOGGED_FIELDS else REDACTED
        for name, value in fields.items()
        if name.isascii() and name.isidentifier()
    }


def _loggable_value(name: str, value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case str():
            max_chars = _MAX_LONG_CHARS if name in _LONG else MAX_VALUE_CHARS
            return str(value) if len(value) <= max_chars and value.isprintable() else REDACTED
        case list() | tuple() if len(value) <= MAX_ITEMS:
            return [_loggable_value(name, item) for item in value]
        case _:
            return REDACTED

"""The fields that a log line may have, and the values that they may hold: everything else is redacted.

The list has what our own code logs: names of populations, tasks and rounds that were looked up and found,
closed lists (calls, codes, phases, causes), numbers, and sentences that we wrote ourselves. No listed field
ever holds input from a phone or an operator. A test searches the code for fields that are not listed.
"""

from collections.abc import Mapping
from typing import Final

REDACTED: Final = "[redacted]"
#: A longer value is neither a name nor a number.
MAX_VALUE_CHARS: Final = 300
MAX_ITEMS: Final = 20

#: Fields about the program's own state.
_PROCESS: Final = ("database", "blobs", "replica", "part", "port", "holder", "lease_s", "grace_s")
#: Names of environment variables, never their values.
_ENVIRONMENT: Final = ("variable", "nearest")
#: Limits that a process starts with.
_LIMITS: Final = (
    "limit",
    "wanted",
    "reserved",
    "max_connections",
    "max_operator_connections",
    "max_bytes",
    "min_flush_clients",
)
#: Names of things that were looked up and found.
_FOUND: Final = ("population", "task", "round", "version", "base_version", "to", "device", "head", "blob")
#: Values from closed lists.
_CLOSED: Final = ("call", "code", "phase", "verdict", "kind", "outcome", "codec", "network", "keys", "key")
_COUNTS: Final = ("reports", "count", "devices", "phones", "heads", "repeated", "attempts", "connections")
_MEASURES: Final = (
    "duration_s",
    "age_s",
    "days_left",
    "within_s",
    "size_bytes",
    "stored_bytes",
    "loss",
    "bound",
    "norm",
    "scale",
    "median",
)
#: Fields about failures: types, places, error numbers, and the messages of our own exceptions.
FAILURE_FIELDS: Final = ("error", "errno", "where", "sqlstate", "sqlite_error", "detail", "incident")
#: Fields that the pipeline itself adds.
_PIPELINE: Final = ("event", "level", "logger", "timestamp")

LOGGED_FIELDS: Final = frozenset(
    _PROCESS + _ENVIRONMENT + _LIMITS + _FOUND + _CLOSED + _COUNTS + _MEASURES + FAILURE_FIELDS + _PIPELINE
)
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

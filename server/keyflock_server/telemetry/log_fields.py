"""Which fields a log line may have, and what may stand in them: everything else is taken out.

The list is what our own code tells of: names of populations, tasks and rounds that were looked up and found,
closed lists (calls, codes, phases, causes), numbers, and sentences that we wrote ourselves. Nothing on it is
ever filled with what a phone or an operator sent. A test reads the code for fields that are not listed.
"""

from collections.abc import Mapping
from typing import Final

REDACTED: Final = "[redacted]"
#: A value that is longer is no name and no number.
MAX_VALUE_CHARS: Final = 300
MAX_ITEMS: Final = 20

#: The program's own state.
_PROCESS: Final = ("database", "blobs", "replica", "part", "port", "holder", "lease_s", "grace_s")
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
#: What was looked up and found.
_FOUND: Final = ("population", "task", "round", "version", "base_version", "to", "device", "head", "blob")
#: Out of closed lists.
_CLOSED: Final = ("call", "code", "phase", "verdict", "kind", "outcome", "codec", "network", "keys", "key")
_COUNTS: Final = ("reports", "count", "devices", "phones", "heads", "repeated", "attempts", "connections")
_MEASURES: Final = (
    "duration_s",
    "age_s",
    "within_s",
    "size_bytes",
    "stored_bytes",
    "loss",
    "bound",
    "norm",
    "scale",
    "median",
)
#: What failed: types, places, numbers of the system, and our own exceptions' sentences.
FAILURE_FIELDS: Final = ("error", "errno", "where", "sqlstate", "sqlite_error", "detail", "incident")
#: Added by the pipeline itself.
_PIPELINE: Final = ("event", "level", "logger", "timestamp")

LOGGED_FIELDS: Final = frozenset(
    _PROCESS + _LIMITS + _FOUND + _CLOSED + _COUNTS + _MEASURES + FAILURE_FIELDS + _PIPELINE
)
#: These may be longer: a traceback's frames, a sentence of ours.
_LONG: Final = frozenset({"where", "detail", "event"})
_MAX_LONG_CHARS: Final = 8_000


def loggable(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that may be logged as they are, and the names of the others marked as redacted.

    A name that is not an identifier of ASCII is dropped whole: it may be what somebody typed.
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

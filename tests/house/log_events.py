"""``make docs``: docs/logs.md from the code that logs; ``test_log_events`` compares the two."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyflock_server.identity.attestation import AcceptAll
from keyflock_server.telemetry import log_fields
from keyflock_server.telemetry.logs import LIBRARY_EVENT

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "logs.md"
SERVER: Final = ROOT / "server" / "keyflock_server"
_MARK: Final = "<!-- from here on written by `make docs` -->\n"

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
#: The method of the observer that logs a failure, whose event its caller names.
_FAILURE_METHOD: Final = "_failed"
#: What a call logs by ``**``, by its event.
_UNPACKED: Final[Mapping[str, frozenset[str]]] = {
    "operator call": frozenset({"population", "task", "round_id"}),
    "an error could not be raised": frozenset(),
}


@dataclass(frozen=True, slots=True)
class LogCall:
    """A place in the code that logs."""

    place: str
    logger: str
    level: str
    #: The event; None where it is not written there.
    event: str | None
    fields: frozenset[str]
    has_failure: bool


#: Events whose sentence is not where they are logged.
_WRITTEN_ELSEWHERE: Final = (
    LogCall("", "`keyflock.server`", "warning", AcceptAll.warning, frozenset(), has_failure=False),
    LogCall("", "the library's", "any", LIBRARY_EVENT, frozenset({"where"}), has_failure=True),
)


def log_calls() -> Iterator[LogCall]:
    """Yield every place of the server that logs."""
    for path in sorted(SERVER.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        logger = _logger_in(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (level := _level(node)) is not None:
                for event in _events_of(node.args[0]):
                    yield _log_call(f"{path.relative_to(SERVER)}:{node.lineno}", logger, level, event, node)


def _events_of(argument: ast.expr) -> Iterator[str | None]:
    """Yield the sentences that an argument may be; None for one that is not written there."""
    match argument:
        case ast.Constant(value=str(event)):
            yield event
        case ast.IfExp(body=one, orelse=other):
            yield from (*_events_of(one), *_events_of(other))
        case _:
            yield None


def _logger_in(tree: ast.AST) -> str:
    """Return the name that a file gives to ``logger``; a constant of the file, or written there."""
    texts = {}
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=text)):
                texts[name] = text
            case _:
                pass
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "logger":
            named = node.args[0]
            return (
                "`"
                + str(named.value if isinstance(named, ast.Constant) else texts[getattr(named, "id", "")])
                + "`"
            )
    return ""


def _level(call: ast.Call) -> str | None:
    if not isinstance(call.func, ast.Attribute):
        return None
    if call.func.attr in LEVELS and isinstance(call.func.value, ast.Name) and call.func.value.id == "_log":
        return call.func.attr
    return "error" if call.func.attr == _FAILURE_METHOD else None


def _log_call(place: str, logger: str, level: str, event: str | None, call: ast.Call) -> LogCall:
    names = {keyword.arg for keyword in call.keywords}
    fields = {name for name in names if name not in {None, "exc_info"}} | set(_UNPACKED.get(event or "", ()))
    is_failure = isinstance(call.func, ast.Attribute) and call.func.attr == _FAILURE_METHOD
    if is_failure:
        fields.add("repeated")
    has_failure = is_failure or "exc_info" in names or event == "an error could not be raised"
    return LogCall(place, logger, level, event, frozenset(filter(None, fields)), has_failure)


def page() -> str:
    """Return the page: its beginning as it is, and the tables anew."""
    beginning = PAGE.read_text(encoding="utf-8").split(_MARK)[0]
    return "\n".join((beginning + _MARK, _events(), _fields()))


def _events() -> str:
    written = [call for call in log_calls() if call.event is not None]
    calls = {(call.event, call.level, call.logger): call for call in (*written, *_WRITTEN_ELSEWHERE)}
    rows = sorted(
        f"| {one.event} | {one.level} | {one.logger} | {_field_names(one)} |" for one in calls.values()
    )
    head = ("## Events\n", "| event | level | logger | fields |", "|---|---|---|---|")
    return "\n".join((*head, *rows, ""))


def _field_names(call: LogCall) -> str:
    names = ", ".join(f"`{name}`" for name in sorted(call.fields))
    return f"{names}{', ' if names else ''}failure" if call.has_failure else names


def _fields() -> str:
    groups = {
        "Of every line": log_fields.PIPELINE_FIELDS,
        "Of every line that is logged while a request is answered": log_fields.REQUEST_FIELDS,
        "Of failures": log_fields.FAILURE_FIELDS,
        "Of single events": log_fields.EVENT_FIELDS,
    }
    parts = ["## Fields\n"]
    for title, fields in groups.items():
        rows = (f"| `{name}` | {meaning} |" for name, meaning in fields.items())
        parts += [f"### {title}\n", "| field | what it is |", "|---|---|", *rows, ""]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""Prints answers for people (tables) or for programs (``--json``: the server's answer as one object)."""

import io
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

#: Lines of a table that goes into a file or a pipe are not broken.
PIPE_WIDTH: Final = 500
#: Control characters but the line's end, and marks that turn the direction of text.
_COMMANDS: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_INSTANT: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z")


def print_in_any_encoding() -> None:
    """Let characters that the encoding of a stream does not have be printed by their numbers."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(answer: object) -> None:
    """Print one JSON value."""
    sys.stdout.write(json.dumps(answer) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Print a table with a row per mapping and a column per field; missing fields stay blank."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    _console().print(table)


def print_list(columns: Sequence[str], answer: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a list; a table is followed by a note where there is more of it."""
    if as_json:
        print_json(answer)
        return
    print_table(columns, answer["items"])
    if answer["next"] is not None:
        sys.stderr.write(
            f"The list goes on behind these {len(answer['items'])}: give a larger --limit, or a filter.\n"
        )


def print_fields(answer: Mapping[str, Any]) -> None:
    """Print a line per field that is set; fields of nested tables and lists are named by their path."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _flat(answer):
        if value not in (None, "", []):
            table.add_row(name, _cell(value))
    _console().print(table)


def progress_console() -> "Console":
    """Return a console on standard error, for what shows how far a command is."""
    from rich.console import Console

    print_in_any_encoding()
    return Console(stderr=True, highlight=False, markup=False)


def _console() -> "Console":
    from rich.console import Console

    print_in_any_encoding()
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False)


def _flat(answer: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in answer.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for at, item in enumerate(value):
                yield from _flat({f"{name}[{at}]": item}, prefix)
        else:
            yield prefix + name, value


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list():
            return ", ".join(_cell(item) for item in value)
        case str() if instant := _INSTANT.fullmatch(value):
            return f"{instant[1]} {instant[2]}"
        case _:
            # No text of somebody else's commands a terminal or turns its direction.
            return _COMMANDS.sub("?", str(value))

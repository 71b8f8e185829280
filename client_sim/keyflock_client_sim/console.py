"""Consoles print any text as it is: nothing in it is taken for markup, and no encoding lacks a character.

Every program for a terminal gets its console here. A style is an argument of ``print``, or a ``Text``'s.
"""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def print_in_any_encoding() -> None:
    """Let characters that the encoding of a stream does not have be printed by their numbers."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def make_console(*, stderr: bool = False, width: int | None = None) -> "Console":
    """Return a console for standard output, or for standard error."""
    from rich.console import Console

    print_in_any_encoding()
    return Console(stderr=stderr, width=width, markup=False)


@contextmanager
def changing_line(console: "Console", text: str = "") -> Iterator[Callable[[str], None]]:
    """Show a line while the block lasts, in a terminal; yield the function that changes it."""
    from rich.text import Text

    # A text of its own, because a status takes a string for markup; the spinner needs only ASCII.
    with console.status(Text(text), spinner="line") as status:
        yield lambda changed: status.update(Text(changed))

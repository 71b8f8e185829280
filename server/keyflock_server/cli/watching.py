"""``--watch``: a command that shows something shows it again and again, until Ctrl-C."""

import contextlib
import io
import sys
import time
from collections.abc import Callable
from typing import Final

from keyflock_server.cli.errors import CommandError

#: Time between two looks.
PAUSE_S: Final = 2.0
_CLEAR: Final = "\x1b[H\x1b[2J"


class _Shown(io.StringIO):
    """What a look prints, which is laid out for where it goes to."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def watch(show: Callable[[], None]) -> None:
    """Show something every two seconds; it ends with Ctrl-C.

    A terminal is redrawn. Anything else, as a file or a pipe, gets what has changed since the last look.

    Args:
        show: Prints it to standard output.
    Raises:
        CommandError: the first look failed, or a later one for good. Of a server that is away, starts or is
            overloaded it is said on standard error, and it is asked again.
    """
    last, is_terminal = "", sys.stdout.isatty()
    while True:
        try:
            with contextlib.redirect_stdout(_Shown(is_terminal=is_terminal)) as shown:
                show()
            if is_terminal or shown.getvalue() != last:
                sys.stdout.write((_CLEAR if is_terminal else "") + shown.getvalue())
                sys.stdout.flush()
            last = shown.getvalue()
        except CommandError as error:
            if not last or not error.is_temporary:
                raise
            sys.stderr.write(f"keyflock: {error} Asking again.\n")
        time.sleep(PAUSE_S)

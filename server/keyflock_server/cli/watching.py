"""``--watch``: a command that shows something shows it again and again, until Ctrl-C."""

import contextlib
import io
import sys
import time
from collections.abc import Callable
from typing import Final

from keyflock_server.cli.errors import CommandError, ExitCode

#: Time between two looks.
PAUSE_S: Final = 2.0
_CLEAR: Final = "\x1b[H\x1b[2J"


def watch(show: Callable[[], None]) -> None:
    """Show something every two seconds; it ends with Ctrl-C.

    A terminal is redrawn. Anything else, as a file or a pipe, gets what has changed since the last look.

    Args:
        show: Prints it to standard output.
    Raises:
        CommandError: the first look failed, or a later one for another reason than a server that is away:
            then it is said on standard error, and the server is asked again.
    """
    last, is_terminal = "", sys.stdout.isatty()
    while True:
        try:
            if is_terminal:
                sys.stdout.write(_CLEAR)
                show()
                last = _CLEAR
            else:
                with contextlib.redirect_stdout(io.StringIO()) as shown:
                    show()
                if shown.getvalue() != last:
                    last = shown.getvalue()
                    sys.stdout.write(last)
            sys.stdout.flush()
        except CommandError as error:
            if not last or error.code is not ExitCode.UNREACHABLE:
                raise
            sys.stderr.write(f"keyflock: {error} Asking again.\n")
        time.sleep(PAUSE_S)

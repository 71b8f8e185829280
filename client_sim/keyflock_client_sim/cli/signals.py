"""Signals that end a command."""

import signal
from typing import Final

#: A terminal that is closed sends the last one.
_ENDINGS: Final = (signal.SIGTERM, signal.SIGHUP)


def ending_signals() -> list[signal.Signals]:
    """Return the signals that end a command, without those that ``nohup`` or a service manager ignores."""
    return [signal.SIGINT, *(one for one in _ENDINGS if signal.getsignal(one) is not signal.SIG_IGN)]


def treat_signals_as_interrupt() -> None:
    """Treat SIGTERM and SIGHUP like Ctrl-C: every block is left, no process stays.

    A shell script starts its background jobs with SIGINT ignored; a command that cannot be ended would be
    worse.
    """
    for ending in ending_signals():
        signal.signal(ending, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
